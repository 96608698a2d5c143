//! The server as a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use wacore::net::{HttpClient, HttpRequest};
use wacore::store::InMemoryBackend;
use whatsapp_rust::Jid;

use crate::client::{Client, Http, authority, eventually};

fn start(arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_whatsapp-test-server"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut url = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut url).expect("its first line");
    (child, url.trim().to_owned())
}

#[tokio::test]
async fn pairs_over_http() {
    let (mut child, url) = start(&["--contacts", "3"]);
    let client = Client::at(&url, Arc::new(InMemoryBackend::new())).await;
    let qr = client.qr().await;
    let request = |qr: &str| {
        HttpRequest::post(format!("https://{}/control/scan", authority(&url)))
            .with_header("content-type", "application/json")
            .with_body(format!(r#"{{"qr":"{qr}","phone_number":"15551230001"}}"#).into_bytes())
    };
    let http = Http(authority(&url).to_owned());
    assert_eq!(http.execute(request("nothing")).await.expect("an answer").status_code, 409);
    assert_eq!(http.execute(request(&qr)).await.expect("an answer").status_code, 200);
    client.connected().await;

    let id = client.text(&Jid::pn("15550000002"), "hello").await;
    assert_eq!(client.ack(&id).await, None);
    let asked = [Jid::pn("15550000003"), Jid::pn("15550000004")];
    let answers = client.inner.contacts().is_on_whatsapp(&asked).await.expect("answered");
    assert_eq!(answers.iter().map(|answer| answer.is_registered).collect::<Vec<_>>(), [true, false]);

    drop(child.stdin.take());
    let status = eventually("the process ends", || child.try_wait().expect("its status")).await;
    assert!(status.success(), "{status}");
}
