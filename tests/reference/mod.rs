//! The reference as a client of the API takes it: a validator accepts the document, a fuzzer finds no answer that it doesn't
//! tell of, and a client that is generated from it sends and follows a message.

mod guides;

use std::time::Duration;

use sanasr_shared::session::SessionStatus;

use crate::harness::folder::Folder;
use crate::harness::process::Launch;
use crate::harness::system::{ADMIN, PASSWORD};
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, both_modes};

both_modes!(nothing_is_answered_that_the_document_does_not_tell_of, a_generated_client_sends_and_follows);

/// Two minutes are plenty when nothing else runs; builds and other tests may.
const FUZZ_LIMIT: Duration = seconds(540);
/// The same cases each time; another seed is tried by `SANASR_TEST_SEED`.
const SEED: &str = "1";

fn python() -> String {
    std::env::var("SANASR_TEST_PYTHON").unwrap_or_else(|_| {
        panic!(
            "SANASR_TEST_PYTHON isn't set: this test needs a Python with the packages in tests/python/requirements.txt. \
             `tests/python/install` makes it and prints where it is; `tests/run` does it by itself."
        )
    })
}

/// Runs a script of tests/python, whose last argument is a folder of its own.
async fn script(name: &str, args: &[&str], limit: Duration) {
    let folder = Folder::new("python");
    let path = format!("{}/tests/python/{name}", env!("CARGO_MANIFEST_DIR"));
    let at = folder.path().to_str().expect("a path in UTF-8").to_owned();
    let args: Vec<_> = [path.as_str()].into_iter().chain(args.iter().copied()).chain([at.as_str()]).collect();
    let done = Launch::program(name, &python(), folder.path()).args(&args).run(limit).await;
    assert_eq!(done.code, Some(0), "{name}:\n{}\n{}", done.stdout, done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_accepts_the_document() {
    let system = System::with(Mode::Embedded).unconnected().start().await;
    script("validate.py", &[&system.apis[0].origin], seconds(120)).await;
}

async fn nothing_is_answered_that_the_document_does_not_tell_of(mode: Mode) {
    let mut system = System::with(mode);
    for limit in ["SANASR_KEY_RATE", "SANASR_KEY_BURST", "SANASR_ADDRESS_RATE", "SANASR_ADDRESS_BURST"] {
        system = system.env(limit, "1000000");
    }
    let system = system.start().await;
    // Makes the admin, if need be.
    system.admin().await;
    let stranger = system.stranger(0);
    let tokens: serde_json::Value = stranger.log_in(ADMIN, PASSWORD).await.expect(200).data();
    let token = tokens["access_token"].as_str().expect("an access token");
    let seed = std::env::var("SANASR_TEST_SEED").unwrap_or_else(|_| SEED.to_owned());
    script("fuzz.py", &[&system.apis[0].origin, token, &seed], FUZZ_LIMIT).await;
    assert!(stranger.root("/health/ready").await.is_ok_and(|ready| ready.status == 200), "it still serves");
}

async fn a_generated_client_sends_and_follows(mode: Mode) {
    let system = System::start(mode).await;
    let key = system.key();
    script("client.py", &[&system.apis[0].origin, key], seconds(180)).await;
    assert_eq!(system.client().session("default").await.status, SessionStatus::Connected);
}
