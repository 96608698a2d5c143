//! `sanasr bench`: what the service manages on this machine, as a client sees it.
//!
//! It drives a service of its own, made empty and removed afterwards, or a running one. `measure` says what is measured,
//! and in which order; `floor` is the least that any program must do for the same work.

mod client;
mod database;
mod flood;
mod floor;
mod greed;
mod latency;
mod load;
mod measure;
mod report;
mod service;
#[cfg(feature = "whatsapp-test-server")]
mod whatsapp;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use self::service::{Service, Urls};

/// What to measure, and on what.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// A running service to drive, http://host:port; it gets many messages [default: one of its own, removed afterwards]
    #[arg(long, value_name = "URL", requires = "api_key", conflicts_with_all = ["floor", "rows"])]
    url: Option<String>,

    /// The key of a user of the running service whose sessions are simulated and whose limits are wide
    #[arg(long, value_name = "KEY", requires = "url")]
    api_key: Option<String>,

    /// A process of the running service on this machine, whose memory is to be told; may be given more than once
    #[arg(long = "pid", value_name = "PID", requires = "url")]
    pids: Vec<u32>,

    /// Concurrent clients, a connection each
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,

    /// How long each load lasts
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// Recipients that the messages go to
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9_000_000))]
    recipients: u32,

    /// Sessions that they go through
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    sessions: u32,

    /// Also measure the least that any program must do for the same work, in turns with ours, and the ratio
    #[arg(long)]
    floor: bool,

    /// Also read messages by id among this many, beside among ten thousand
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(20_000..=1_000_000_000))]
    rows: Option<i64>,

    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Where the service's data goes; the disk makes a difference [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// PostgreSQL for the service; a database is made there, and removed afterwards [default: SQLite]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,

    /// RabbitMQ for the service [default: in process]
    #[arg(long, env = "AMQP_URL", value_name = "URL", hide_env_values = true)]
    amqp_url: Option<String>,

    /// Redis for the service [default: in process]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// Measure WhatsApp sessions instead, against the server of the tests beside this program
    #[cfg(feature = "whatsapp-test-server")]
    #[arg(long, hide = true, conflicts_with_all = ["url", "floor", "rows"])]
    whatsapp: bool,

    /// Be the floor, for the benchmark that started this
    #[arg(long, hide = true, value_name = "ADDRESS")]
    floor_listen: Option<SocketAddr>,

    /// Size of the floor's answers
    #[arg(long, hide = true, default_value_t = 0, value_name = "BYTES")]
    floor_answer_bytes: usize,
}

/// Measures, and prints what came of it to standard output; how it goes on is told on standard error.
///
/// # Errors
/// If the service can't be started or driven; in words.
pub(crate) async fn run(mut args: BenchArgs) -> Result<()> {
    // An empty variable is one that isn't set.
    for url in [&mut args.database_url, &mut args.amqp_url, &mut args.redis_url] {
        if url.as_ref().is_some_and(String::is_empty) {
            *url = None;
        }
    }
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    if let Some(listen) = args.floor_listen {
        let (database, amqp) = (args.database_url.as_deref(), args.amqp_url.as_deref());
        return floor::serve(listen, args.floor_answer_bytes, database, amqp, &parent).await;
    }
    let urls = Urls { database: args.database_url.clone(), amqp: args.amqp_url.clone(), redis: args.redis_url.clone() };
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(feature = "whatsapp-test-server")]
    if args.whatsapp {
        let report = tokio::select! {
            report = whatsapp::run(urls, &parent) => report?,
            _ = interrupted => bail!("interrupted"),
        };
        println!("{}", if args.json { report.json()? } else { report.table() });
        return Ok(());
    }
    let report = if let (Some(url), Some(key)) = (&args.url, &args.api_key) {
        let target = client::Target::new(url, key)?;
        tokio::select! {
            report = measure::running(&args, target) => report?,
            _ = interrupted => bail!("interrupted"),
        }
    } else {
        eprintln!("Starting a service.");
        let mut service = Service::start(urls, &parent).await?;
        let report = tokio::select! {
            report = measure::own(&args, &mut service) => report,
            _ = interrupted => Err(anyhow::anyhow!("interrupted")),
        };
        service.remove().await;
        report?
    };
    println!("{}", if args.json { report.json()? } else { report.table() });
    Ok(())
}
