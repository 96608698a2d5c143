//! The real binary as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::wait::{eventually, seconds};

/// A process about to be started: the binary with a clean environment, so that nobody's settings leak into a test.
#[derive(Debug)]
pub(crate) struct Launch {
    name: String,
    command: Command,
    stdin: Option<String>,
}

/// What a process that has ended by itself has left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Launch {
    /// `sanasr` with these arguments. `folder` is its working directory, where no `.env` lies.
    pub(crate) fn sanasr(name: &str, args: &[&str], folder: &Path) -> Self {
        Self::program(name, env!("CARGO_BIN_EXE_sanasr"), folder).args(args)
    }

    /// Any program.
    pub(crate) fn program(name: &str, program: &str, folder: &Path) -> Self {
        let mut command = Command::new(program);
        command.env_clear().current_dir(folder).env("RUST_BACKTRACE", "1").env("HOME", folder);
        for kept in ["PATH", "SANASR_TEST_RUN"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Self { name: name.to_owned(), command, stdin: None }
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn envs<'a>(self, envs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        envs.into_iter().fold(self, |launch, (name, value)| launch.env(name, value))
    }

    pub(crate) fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// Starts it, in a process group of its own.
    pub(crate) fn spawn(mut self) -> Process {
        use std::os::unix::process::CommandExt;
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{} doesn't start: {e}", self.name));
        if let (Some(text), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            pipe.write_all(text.as_bytes()).expect("standard input");
        }
        let lines = Arc::default();
        let readers = [
            child.stdout.take().map(|pipe| read(pipe, Stream::Stdout, &lines)),
            child.stderr.take().map(|pipe| read(pipe, Stream::Stderr, &lines)),
        ];
        Process { name: self.name, child, lines, readers: readers.into_iter().flatten().collect(), ended: None }
    }

    /// Runs it to its end.
    pub(crate) async fn run(self, limit: Duration) -> Finished {
        let mut process = self.spawn();
        let status = process.exited(limit).await;
        Finished { code: status.code(), stdout: process.stdout(), stderr: process.stderr() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

type Lines = Arc<Mutex<Vec<(Stream, String)>>>;

fn read(pipe: impl Read + Send + 'static, stream: Stream, lines: &Lines) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push((stream, line));
        }
    })
}

/// A running process. It is killed with its owner; what it wrote is shown if the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.written(Stream::Stdout)
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.written(Stream::Stderr)
    }

    fn written(&self, stream: Stream) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(s, _)| *s == stream).map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Waits for a line with `part` in it, on either stream, and gives it.
    pub(crate) async fn wait_for_line(&mut self, part: &str, limit: Duration) -> String {
        let what = format!("{} writes a line with {part:?}", self.name);
        eventually(limit, &what, async || {
            // Asked before the lines are looked at, so that the last ones count.
            let ended = self.poll();
            let found = self.line(part);
            assert!(found.is_some() || ended.is_none(), "{} ended ({ended:?}) without a line with {part:?}", self.name);
            found
        })
        .await
    }

    /// The first line so far with `part` in it.
    pub(crate) fn line(&self, part: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|(_, line)| line.contains(part)).map(|(_, line)| line.clone())
    }

    /// Where it serves HTTP, such as `http://127.0.0.1:12345`, once it says so.
    pub(crate) async fn address(&mut self) -> String {
        // An API is "listening on", a worker has "health and metrics on".
        const SAID: &str = " on http://";
        let line = self.wait_for_line(SAID, seconds(30)).await;
        let host = line.split(SAID).nth(1).unwrap_or_default();
        let end = host.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(host.len());
        format!("http://{}", &host[..end])
    }

    /// How it ended, if it has.
    pub(crate) fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child's state");
            if self.ended.is_some() {
                for reader in self.readers.drain(..) {
                    let _ = reader.join();
                }
            }
        }
        self.ended
    }

    /// The most memory that it has had so far, in KiB, including the pages of its program file.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory that it has now, in KiB, without the pages of its program file, of which more are read as code runs for the
    /// first time.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    /// The number in a line of `/proc/<pid>/status`. The fields are described in proc(5).
    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process's status");
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("{field} in {status}"))
    }

    /// Waits for its end.
    pub(crate) async fn exited(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(limit, &what, async || self.poll()).await
    }

    /// Ends it in good order (SIGTERM). Gives its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.exited(seconds(15)).await.code()
    }

    /// Presses Ctrl-C (SIGINT).
    pub(crate) fn interrupt(&mut self) {
        self.signal(Signal::INT);
    }

    /// Ends it at once (SIGKILL).
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exited(seconds(5)).await;
    }

    /// Stops it where it stands (SIGSTOP).
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn wake(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        // A process that wasn't waited for keeps its id: the signal can't meet another one.
        if self.poll().is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
            kill_process_group(pid, signal).expect("a signal to an own process");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll().is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let skipped = lines.len().saturating_sub(400);
            eprintln!("--- {} wrote (the first {skipped} lines left out):", self.name);
            for (_, line) in lines.iter().skip(skipped) {
                eprintln!("{line}");
            }
        }
    }
}
