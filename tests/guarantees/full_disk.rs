//! A disk that is full: the service says so, keeps what it has accepted, and goes on by itself once there is room.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use sanasr_shared::message::Status;
use serde_json::json;

use crate::harness::folder::Folder;
use crate::harness::ledger::Ledger;
use crate::harness::process::{Launch, Process};
use crate::harness::system::find_key;
use crate::harness::wait::seconds;
use crate::harness::{Client, eventually};

/// Takes the last byte of a disk.
fn fill(file: &Path) {
    let mut file = std::fs::File::create(file).expect("a file on the disk");
    let mut piece = vec![0; 1 << 20];
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => panic!("the disk can't be filled: {error}"),
        }
    }
}

/// Starts the service with its data on a disk of 64 MiB, which only its own processes see. Gives the way to the disk from
/// outside.
fn on_a_small_disk(folder: &Folder, ledger: &Ledger) -> (Process, PathBuf) {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).expect("a folder for the disk");
    let as_root: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let script = "mount -t tmpfs -o size=64m tmpfs \"$0\" && exec \"$1\"";
    let disk = disk.to_str().expect("a path in UTF-8");
    let rest = ["--mount", "sh", "-c", script, disk, env!("CARGO_BIN_EXE_sanasr")];
    let process = Launch::program("sanasr", "unshare", folder.path())
        .args(as_root)
        .args(&rest)
        .env("SANASR_LISTEN", "127.0.0.1:0")
        .env("SANASR_DATA_DIR", &format!("{disk}/data"))
        .env("SANASR_SIMULATOR_LEDGER", &ledger.path().display().to_string())
        .spawn();
    let outside = format!("/proc/{}/root{disk}", process.id());
    (process, outside.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_is_told() {
    let folder = Folder::new("full");
    let ledger = Ledger::new(folder.join("ledger.jsonl"));
    let (mut process, disk) = on_a_small_disk(&folder, &ledger);
    let client = Client::new(&process.address().await, &find_key(&process.stdout()).expect("a key"));
    client.connect("default").await;
    let text = "x".repeat(4_000);
    let send = async |number: usize| {
        let to = format!("+1555309{:04}", 1_000 + number);
        client.send(&json!({ "to": to, "type": "text", "text": text })).await
    };
    assert_eq!(send(0).await.status, 202);

    fill(&disk.join("fill"));
    // What the database's files have allocated before is written still.
    let mut accepted = 1;
    eventually(seconds(60), "nothing is accepted any more", async || {
        let reply = send(accepted).await;
        if reply.status == 202 {
            accepted += 1;
            return None;
        }
        assert_eq!((reply.status, reply.code()), (503, "unavailable"), "{}", reply.body);
        Some(())
    })
    .await;
    let ready = async |wanted: u16| {
        let reply = client.root("/health/ready").await.expect("an answer");
        (reply.status == wanted).then_some(reply.body)
    };
    let said = eventually(seconds(60), "the service isn't ready", async || ready(503).await).await;
    assert_eq!(said["checks"]["parts"], "unavailable", "{said}");
    assert_eq!(client.root("/health/live").await.expect("an answer").status, 200, "it lives");

    std::fs::remove_file(disk.join("fill")).expect("room again");
    eventually(seconds(60), "the service is ready again", async || ready(200).await).await;
    assert_eq!(send(accepted).await.status, 202);
    accepted += 1;
    let messages = client.wait_count("", Status::Read, accepted, seconds(60)).await;
    assert_eq!(messages.len(), accepted, "all that was accepted, and nothing that was refused");
    assert_eq!(client.quota().await.used, i64::try_from(accepted).expect("a small number"));
    assert_eq!(ledger.read().shown().len(), accepted);
    assert!(ledger.read().repeated().is_empty());
    assert_eq!(process.stop().await, Some(0));
}
