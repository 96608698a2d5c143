//! The guides in docs/, tried as written: their commands are pasted, one after the other, into a shell.

use std::path::Path;

use crate::harness::folder::Folder;
use crate::harness::process::Launch;
use crate::harness::system::PASSWORD;
use crate::harness::wait::seconds;
use crate::harness::{Mode, System, eventually, whatsapp};

/// Pastes a guide's commands. A request that fails, unless the guide says `|| true`, fails the test.
async fn paste(guide: &str) {
    paste_into(&Folder::new("guide"), &System::start(Mode::Embedded).await, guide).await;
}

/// Pastes a guide's commands, in a folder and for a system.
async fn paste_into(folder: &Folder, system: &System, guide: &str) {
    std::fs::write(folder.join(".curlrc"), "fail-with-body\nshow-error\n").expect("a .curlrc");
    std::fs::write(folder.join("users.txt"), "warehouse|warehouse@example.org|False\nboss||True\n").expect("a list");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(guide);
    let commands = commands(&std::fs::read_to_string(path).expect("a guide"));
    assert!(!commands.is_empty(), "{guide} has commands");
    let script = format!("set -euo pipefail\n{commands}");
    let home = folder.path().to_str().expect("a path in UTF-8");
    let launch = Launch::program(guide, "bash", folder.path()).args(&["-c", &script]).env("CURL_HOME", home);
    let launch = launch.env("SANASR", &system.apis[0].origin).env("KEY", system.key()).env("PASSWORD", PASSWORD);
    let done = launch.run(seconds(120)).await;
    assert_eq!(done.code, Some(0), "{guide}:\n{}\n{}", done.stdout, done.stderr);
}

/// What stands in the blocks of shell commands.
fn commands(guide: &str) -> String {
    let mut within = false;
    let mut commands = String::new();
    for line in guide.lines() {
        match line.trim_end() {
            "```sh" => within = true,
            "```" => within = false,
            line if within => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_message_is_sent_as_the_guide_says() {
    paste("send-your-first-message.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_followed_as_the_guide_says() {
    paste("follow-a-message.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_administered_as_the_guide_says() {
    paste("administer-users.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_moved_as_the_guide_says() {
    paste("move-from-django.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_linked_as_the_guide_says() {
    let (system, server) = whatsapp::start(Mode::Embedded).await;
    let jane = server.contact("15551234567");
    let (client, folder) = (system.client(), Folder::new("guide"));
    let scan = async {
        eventually(seconds(60), "the guide has its picture", async || folder.join("qr.png").exists().then_some(()))
            .await;
        let code = client.wait_shown("shop", "qr_code").await;
        server.scan(&code, "15550008001").await.expect("the phone takes the code");
    };
    tokio::join!(paste_into(&folder, &system, "whatsapp.md"), scan);
    eventually(seconds(60), "the guide's message arrives", async || jane.messages().pop()).await;
}
