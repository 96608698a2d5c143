//! The server as a process of its own, for benchmarks: it prints its URL and pairs clients over HTTP.
//!
//! `POST /control/scan {"qr", "phone_number"}` and `POST /control/enter-code {"phone_number", "code"}` on the same port.

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use whatsapp_test_server::Server;

/// A WhatsApp server for tests, on a free port of loopback. It ends when its standard input closes, or on SIGTERM.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many contacts there are, from 15550000001 on; without it every number is on WhatsApp.
    #[arg(long, value_name = "N")]
    contacts: Option<u32>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let server = Server::start().await;
    match arguments.contacts {
        Some(contacts) => (1..=contacts).for_each(|n| drop(server.contact(&format!("1555{n:07}")))),
        None => server.everybody(),
    }
    println!("{}", server.url());
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = input_closed() => {}
    }
    server.stop();
}

/// Tells when nobody holds the other end of the standard input any more.
fn input_closed() -> oneshot::Receiver<()> {
    let (closed, told) = oneshot::channel();
    // A thread of its own: a runtime can't give up a read of the standard input.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    told
}
