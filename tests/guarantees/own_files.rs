//! What the process keeps is its own user's alone, and settings come from where it is started, not from above.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::harness::Client;
use crate::harness::folder::Folder;
use crate::harness::process::Launch;
use crate::harness::system::find_key;
use crate::harness::wait::seconds;

fn newcomer(folder: &Path) -> Launch {
    Launch::sanasr("sanasr", &[], folder).env("SANASR_LISTEN", "127.0.0.1:0")
}

/// Everything in a folder, and the folder.
fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() {
        for entry in path.read_dir().expect("a folder") {
            all.extend(all_below(&entry.expect("an entry").path()));
        }
    }
    all
}

/// Nothing here is for others.
fn is_closed(path: &Path) {
    for path in all_below(path) {
        // A write-ahead log goes when its database is closed.
        let Ok(meta) = path.symlink_metadata() else { continue };
        assert_eq!(meta.mode() & 0o077, 0, "{} has the mode {:o}", path.display(), meta.mode() & 0o7777);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_files_are_the_owners_alone() {
    let folder = Folder::new("own-files");
    let (data, ledger) = (folder.join("data"), folder.join("ledger.jsonl"));
    let start = || newcomer(folder.path()).env("SANASR_SIMULATOR_LEDGER", ledger.to_str().expect("UTF-8")).spawn();
    let mut process = start();
    let client = Client::new(&process.address().await, &find_key(&process.stdout()).expect("a key"));
    client.text("default", "+15553001001", "private").await;
    for name in ["sanasr.db", "sanasr.db-wal", "sanasr.db-shm", "api-logs.db", "api-logs.db-wal", "secret-key", "lock"]
    {
        assert!(data.join(name).exists(), "{name} is there");
    }
    is_closed(&data);
    is_closed(&ledger);

    // Killed, so that the write-ahead log stays, and opened by some tool's carelessness.
    process.kill().await;
    let direct = data.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
    for path in direct.chain([data.clone()]).collect::<Vec<_>>() {
        std::fs::set_permissions(&path, Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 }))
            .expect("a mode");
    }
    let mut process = start();
    process.address().await;
    is_closed(&data);
    assert!(process.line("that is mended").is_some(), "it says what it has mended");
    client.at(&process.address().await).get("/usage").await.expect(200);
}

/// A folder with other things in it, such as a home or /tmp, is nobody's to close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_data_dir_is_refused() {
    let folder = Folder::new("shared-data-dir");
    let (data, other) = (folder.join("data"), folder.join("data/photo.jpg"));
    std::fs::create_dir(&data).expect("a folder");
    std::fs::write(&other, "a photo").expect("a file");
    std::fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("a mode");
    let done = newcomer(folder.path()).run(seconds(20)).await;
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(done.stderr.contains("SANASR_DATA_DIR") && done.stderr.contains("others"), "{}", done.stderr);
    let mode = |path: &Path| path.metadata().expect("its mode").mode() & 0o777;
    assert_eq!(mode(&data), 0o755, "it is left as it is");
    // Closed by its owner, it is taken, and what else lies there is left alone.
    std::fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("a mode");
    std::fs::set_permissions(&other, Permissions::from_mode(0o644)).expect("a mode");
    newcomer(folder.path()).spawn().address().await;
    assert_eq!(mode(&other), 0o644);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_come_from_the_working_folder_alone() {
    let folder = Folder::new("env-file");
    let below = folder.join("below");
    std::fs::create_dir(&below).expect("a folder");
    std::fs::write(folder.join(".env"), "SANASR_DATA_DIR=/proc/of-somebody-else\n").expect("a file");
    let mut process = newcomer(&below).spawn();
    process.address().await;
    assert_eq!(process.line(".env"), None, "nothing was read");
    process.stop().await;

    std::fs::write(below.join(".env"), "SANASR_DATA_DIR=./elsewhere\n").expect("a file");
    let mut process = newcomer(&below).spawn();
    process.address().await;
    let said = process.line(".env").expect("the log says what was read");
    assert!(said.contains(below.join(".env").to_str().expect("UTF-8")), "{said}");
    assert!(below.join("elsewhere/sanasr.db").exists());
}
