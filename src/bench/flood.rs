//! A flood of wrong logins beside a load: what it does to the sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::Target;
use super::load::{Dice, Load, Sent};
use super::report::{Aim, Report, Unit};
use super::service::Process;

/// Logins at once.
const LOGINS: u32 = 200;

/// Measures sends at `rate` without and beside wrong logins, each for a name and from an address of its own, so that every
/// one is looked at.
pub(super) async fn flood(
    load: &Load,
    clients: u32,
    rate: f64,
    duration: Duration,
    serving: Option<&Process>,
    report: &mut Report,
) -> Result<()> {
    let mut alone = load.at_rate(clients, rate, duration).await?;
    let before = serving.and_then(Process::memory).map_or(0.0, |(_, highest)| highest);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new(Counts::default());
    let mut logins = JoinSet::new();
    for n in 0..LOGINS {
        logins.spawn(keep_trying(load.target.clone(), n, Arc::clone(&stop), Arc::clone(&counts)));
    }
    // Once it is in full swing.
    sleep(Duration::from_millis(500)).await;
    let flooded = load.at_rate(clients, rate, duration).await;
    stop.store(true, Ordering::Relaxed);
    while logins.join_next().await.is_some() {}
    let p99 = |sent: &mut Sent| sent.latencies.percentile_ms(99.0);
    let (without, beside) = (p99(&mut alone), p99(&mut flooded?));
    report.row(format!("accepting at {:.0}/s, p99", alone.rate), without, Unit::Milliseconds);
    report.aimed(
        format!("the same beside {LOGINS} wrong logins at once, p99"),
        beside,
        Unit::Milliseconds,
        Aim::AtMost(2.0 * without),
    );
    if let Some((_, after)) = serving.and_then(Process::memory) {
        report.row("memory that the wrong logins took at most", after - before, Unit::Megabytes);
    }
    let (hashed, refused) = (counts.looked_at.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
    report.note(format!("Of the wrong logins {hashed} were looked at, and {refused} were told to come later."));
    Ok(())
}

#[derive(Default)]
struct Counts {
    looked_at: AtomicU64,
    refused: AtomicU64,
}

async fn keep_trying(target: Target, n: u32, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    let mut dice = Dice::new(1_000_000 + n);
    let Ok(mut client) = target.connect().await else { return };
    while !stop.load(Ordering::Relaxed) {
        let random = dice.below(1 << 24);
        let address = format!("10.{}.{}.{}", random >> 16 & 255, random >> 8 & 255, random & 255);
        let body = json!({"username": format!("nobody-{random}"), "password": "wrong, and long enough"});
        match client.login_from(&address, &body).await {
            Ok(401) => counts.looked_at.fetch_add(1, Ordering::Relaxed),
            Ok(_) => {
                // Half of what the answer asks for.
                sleep(Duration::from_secs(1)).await;
                counts.refused.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => return,
        };
    }
}
