//! A service of the benchmark's own: fresh, with nobody else's messages, gone afterwards.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use sanasr_shared::user::RawApiKey;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::client::Target;
use super::database::Database;

/// How long a process may take to get ready, or to print what it must.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Above what a run takes, so that what is measured is the work and not a limit.
const PLENTY: &str = "1000000000";

/// The services that the processes are given.
#[derive(Debug, Clone, Default)]
pub(super) struct Urls {
    pub(super) database: Option<String>,
    pub(super) amqp: Option<String>,
    pub(super) redis: Option<String>,
}

/// A folder that is removed in the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes a new folder in `parent`.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("sanasr-bench-{}", Uuid::now_v7().simple()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of this binary; killed when dropped.
pub(super) struct Process {
    pub(super) name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process whose standard error goes into a file in `folder`.
    pub(super) fn spawn(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let child = command.stderr(File::create(&log)?).spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Waits until the process says that it is ready.
    pub(super) async fn until_ready(&mut self, address: SocketAddr, path: &str) -> Result<()> {
        let target = Target::new(&format!("http://{address}"), "none")?;
        let give_up = Instant::now() + START_LIMIT;
        loop {
            if let Ok(mut client) = target.connect().await
                && let Ok((StatusCode::OK, _)) = client.request(Method::GET, path, Bytes::new()).await
            {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > give_up {
                bail!("{} didn't get ready: {}", self.name, self.last_words());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// What it prints, if that is piped and nobody has taken it yet.
    #[cfg(feature = "whatsapp-test-server")]
    pub(super) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("{} ended ({status}): {}", self.name, self.last_words())),
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Resident memory now and at its highest, in megabytes (of 1,048,576 bytes).
    pub(super) fn memory(&self) -> Option<(f64, f64)> {
        memory(self.child.id())
    }

    /// Asks the process to stop, and makes it if it doesn't.
    async fn stop(&mut self) {
        // The standard library can only kill.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().is_ok_and(|status| status.success());
        let give_up = Instant::now() + STOP_LIMIT;
        while asked && Instant::now() < give_up {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process now and at its highest, in megabytes.
pub(super) fn memory(pid: u32) -> Option<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    Some((field("VmRSS")? / 1024.0, field("VmHWM")? / 1024.0))
}

/// A port that is free now.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// This binary, in an environment that says nothing about `sanasr`.
pub(super) fn this_binary(folder: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("SANASR_") || ["DATABASE_URL", "AMQP_URL", "REDIS_URL"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
    // In the folder there is no `.env` to read.
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}

/// The running service.
pub(super) struct Service {
    pub(super) target: Target,
    pub(super) database: Database,
    pub(super) processes: Vec<Process>,
    /// From the start of the first process to its being ready, on an empty database.
    pub(super) first_ready: Duration,
    urls: Urls,
    /// Further settings of every process.
    settings: Vec<(&'static str, String)>,
    secret: String,
    // Last: removed when the processes are gone.
    folder: Folder,
}

impl Service {
    /// Starts a service on an empty database: one process, or an API and a worker if all three services are given.
    pub(super) async fn start(urls: Urls, parent: &Path) -> Result<Self> {
        Self::start_with(urls, parent, Vec::new()).await
    }

    /// The same with further settings.
    pub(super) async fn start_with(urls: Urls, parent: &Path, settings: Vec<(&'static str, String)>) -> Result<Self> {
        let folder = Folder::new(parent)?;
        let database = match &urls.database {
            Some(url) => Database::create_postgres(url).await?,
            None => Database::Sqlite(folder.path().join("data")),
        };
        let secret = format!("{}{}", Uuid::now_v7().simple(), Uuid::now_v7().simple());
        let target = Target::new("http://127.0.0.1:1", "none")?;
        let first_ready = Duration::ZERO;
        let mut service = Self { target, database, processes: Vec::new(), first_ready, urls, settings, secret, folder };
        match service.first_start().await {
            Ok(()) => Ok(service),
            Err(error) => {
                service.remove().await;
                Err(error)
            }
        }
    }

    async fn first_start(&mut self) -> Result<()> {
        let key = if let Database::Postgres { .. } = self.database {
            self.finish(self.command(&["migrate"])?, "")?;
            let key = self.make_user("bench")?;
            self.first_ready = self.spawn(Stdio::null(), &key).await?;
            key
        } else {
            self.first_ready = self.spawn(Stdio::piped(), "none").await?;
            self.printed_key().await?
        };
        self.target = self.target.with_key(&key)?;
        Ok(())
    }

    /// Stops the service and starts it again on the same data. Answers how long that took to be ready.
    pub(super) async fn restart(&mut self) -> Result<Duration> {
        self.stop().await;
        let key = self.target.key().to_owned();
        self.spawn(Stdio::null(), &key).await
    }

    /// Stops the service.
    pub(super) async fn stop(&mut self) {
        for mut process in self.processes.drain(..) {
            process.stop().await;
        }
    }

    /// Stops the service and removes all that it has made.
    pub(super) async fn remove(mut self) {
        self.stop().await;
        if let Err(error) = self.database.remove(self.urls.amqp.as_deref()).await {
            eprintln!("left behind: {error:#}");
        }
    }

    /// What the simulated WhatsApp received.
    pub(super) fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger.jsonl")
    }

    /// Where the benchmark's own files may go.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// RabbitMQ, if the service has one.
    pub(super) fn amqp(&self) -> Option<&str> {
        self.urls.amqp.as_deref()
    }

    /// What runs, in words.
    pub(super) fn describe(&self) -> &'static str {
        match (&self.urls.database, &self.urls.amqp, &self.urls.redis) {
            (None, None, None) => "one process with SQLite",
            (Some(_), Some(_), Some(_)) => {
                "one API and one worker on PostgreSQL, RabbitMQ and Redis, all on this machine"
            }
            _ => "one process with some of PostgreSQL, RabbitMQ and Redis on this machine",
        }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = this_binary(self.folder.path())?;
        command
            .args(arguments)
            .env("SANASR_DATA_DIR", self.folder.path().join("data"))
            .env("SANASR_SECRET_KEY", &self.secret)
            .env("SANASR_SIMULATOR_LEDGER", self.ledger())
            .env("SANASR_SIMULATOR_SCAN_AFTER", "0ms")
            .env("SANASR_SIMULATOR_RECEIPTS", "0")
            .env("SANASR_BACKLOG_LIMIT", PLENTY)
            .env("SANASR_BACKLOG_USER_PERCENT", "100")
            // One key stands for all clients here.
            .env("SANASR_SESSIONS_PER_USER", "10000")
            .env("SANASR_KEY_RATE", "1000000")
            .env("SANASR_KEY_BURST", "1000000")
            // The clients say in whose name they come.
            .env("SANASR_TRUSTED_PROXIES", "127.0.0.1")
            .env("SANASR_LOG", "warn");
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        if let Database::Postgres { url, .. } = &self.database {
            command.env("DATABASE_URL", url);
        }
        for (name, url) in [("AMQP_URL", &self.urls.amqp), ("REDIS_URL", &self.urls.redis)] {
            if let Some(url) = url {
                command.env(name, url);
            }
        }
        Ok(command)
    }

    /// Starts the processes; answers how long the one that serves HTTP took to be ready.
    async fn spawn(&mut self, stdout: Stdio, key: &str) -> Result<Duration> {
        let folder = self.folder.path().to_owned();
        let roles: &[(&str, &[&str])] = if self.urls.amqp.is_some() && self.urls.redis.is_some() {
            &[("api", &["api"]), ("worker", &["worker"])]
        } else {
            &[("sanasr", &[])]
        };
        let mut stdout = Some(stdout);
        let mut serving = None;
        for (name, arguments) in roles {
            let address = free_address()?;
            let mut command = self.command(arguments)?;
            command.env("SANASR_LISTEN", address.to_string()).stdout(stdout.take().unwrap_or_else(Stdio::null));
            let started = Instant::now();
            let mut process = Process::spawn(name, &mut command, &folder)?;
            process.until_ready(address, "/health/ready").await?;
            serving.get_or_insert((address, started.elapsed()));
            self.processes.push(process);
        }
        let (address, ready) = serving.context("no process")?;
        self.target = Target::new(&format!("http://{address}"), key)?;
        Ok(ready)
    }

    /// Makes a user, and answers its key. An embedded database must not be in use.
    pub(super) fn make_user(&self, name: &str) -> Result<String> {
        let create =
            ["user", "create", "--username", name, "--password-stdin", "--api-key", "--max-messages-per-day", PLENTY];
        let said = self.finish(self.command(&create)?, &format!("{}\n", self.secret))?;
        find_key(&said).context("`user create` printed no API key")
    }

    fn finish(&self, mut command: Command, input: &str) -> Result<String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("its standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The key that the first start prints.
    async fn printed_key(&mut self) -> Result<String> {
        let process = self.processes.first_mut().context("no process")?;
        let stdout = process.child.stdout.take().context("its standard output")?;
        let (found, key) = oneshot::channel();
        // Reads on to the end, so that the process never waits for room.
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                if let Some(key) = find_key(&line)
                    && let Some(found) = found.take()
                {
                    let _ = found.send(key);
                }
            }
        });
        timeout(START_LIMIT, key).await.ok().and_then(Result::ok).context("the first start printed no API key")
    }
}

/// The first API key in a text.
fn find_key(text: &str) -> Option<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    words.filter(|word| RawApiKey::parse(word).is_some()).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_among_words() {
        let key = RawApiKey::generate();
        let text = format!("sanasr is ready\n  curl -H 'Authorization: ApiKey {}' http://…", key.as_str());
        assert_eq!(find_key(&text).as_deref(), Some(key.as_str()));
        assert_eq!(find_key("sanasr_ nothing here"), None);
    }

    #[test]
    fn memory_of_a_process_is_read() {
        let (now, highest) = memory(std::process::id()).expect("our own");
        assert!(now > 0.5 && highest >= now);
        assert_eq!(memory(u32::MAX), None);
    }
}
