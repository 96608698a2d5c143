//! Sending load and finding out what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use sanasr_shared::time::Time;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Client, Target};
use super::latency::Latencies;

/// Where messages are posted.
pub(super) const MESSAGES: &str = "/api/v1/messages";
/// Messages in one page of a list, the most the API gives.
const PAGE: usize = 200;
/// How long the last messages of a run may take to be read once nothing is accepted any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// A load: who sends, to whom, through what.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) target: Target,
    /// Names of the sessions that the messages are spread over.
    pub(super) sessions: Vec<String>,
    /// Recipients that they go to.
    pub(super) recipients: u32,
}

/// What came of a load.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Messages that were answered 202.
    pub(super) accepted: u64,
    /// Other answers, by status; 0 counts broken connections.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Of the accepts: from the request (or, at a fixed rate, from when it should have begun) to the answer.
    pub(super) latencies: Latencies,
    /// Accepts a second.
    pub(super) rate: f64,
}

impl Sent {
    /// Words about what was refused; empty if nothing was.
    pub(super) fn refusals(&self) -> String {
        let list: Vec<_> = self.refused.iter().map(|(status, count)| format!("{count} × {status}")).collect();
        list.join(", ")
    }
}

/// How a client paces itself.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// The next request follows the answer.
    Closed,
    /// One every so often, whatever the answers do.
    Every(Duration),
}

impl Load {
    /// As much as `clients` manage that wait for each answer.
    pub(super) async fn closed(&self, clients: u32, duration: Duration) -> Result<Sent> {
        self.run(clients, duration, Pace::Closed).await
    }

    /// `rate` messages a second, evenly spread, over `clients` connections.
    pub(super) async fn at_rate(&self, clients: u32, rate: f64, duration: Duration) -> Result<Sent> {
        let gap = Duration::from_secs_f64(f64::from(clients) / rate.max(0.1));
        self.run(clients, duration, Pace::Every(gap)).await
    }

    async fn run(&self, clients: u32, duration: Duration, pace: Pace) -> Result<Sent> {
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(self.target.connect().await?);
        }
        let start = Instant::now();
        let end = start + duration;
        let mut tasks = JoinSet::new();
        for (n, client) in (0..clients).zip(connected) {
            let (load, first) = match pace {
                Pace::Closed => (self.clone(), start),
                Pace::Every(gap) => (self.clone(), start + gap * n / clients),
            };
            tasks.spawn(async move { load.drive(client, n, pace, first, end).await });
        }
        let mut total = Sent::default();
        while let Some(part) = tasks.join_next().await {
            let part = part.context("a client")?;
            total.accepted += part.accepted;
            total.latencies.extend(part.latencies);
            for (status, count) in part.refused {
                *total.refused.entry(status).or_default() += count;
            }
        }
        total.rate = total.accepted as f64 / start.elapsed().as_secs_f64();
        Ok(total)
    }

    async fn drive(&self, mut client: Client, n: u32, pace: Pace, first: Instant, end: Instant) -> Sent {
        let mut sent = Sent::default();
        let mut dice = Dice::new(n);
        let mut begin = first;
        loop {
            if let Pace::Every(_) = pace {
                sleep_until(begin.min(end)).await;
            }
            if Instant::now() >= end {
                return sent;
            }
            let body = self.message(&mut dice);
            match client.request(Method::POST, MESSAGES, body).await {
                Ok((StatusCode::ACCEPTED, _)) => {
                    sent.accepted += 1;
                    sent.latencies.add(begin.elapsed());
                }
                Ok((status, _)) => {
                    *sent.refused.entry(status.as_u16()).or_default() += 1;
                    // Told to go away: not at once again.
                    sleep(Duration::from_millis(10)).await;
                }
                Err(_) => {
                    *sent.refused.entry(0).or_default() += 1;
                    sleep(Duration::from_millis(100)).await;
                    if let Ok(again) = self.target.connect().await {
                        client = again;
                    }
                }
            }
            begin = match pace {
                Pace::Closed => Instant::now(),
                Pace::Every(gap) => begin + gap,
            };
        }
    }

    fn message(&self, dice: &mut Dice) -> Bytes {
        let session = &self.sessions[dice.below(self.sessions.len() as u64) as usize];
        let to = recipient(dice.below(u64::from(self.recipients.max(1))));
        let code = dice.below(1_000_000);
        format!(r#"{{"to":"{to}","type":"text","session":"{session}","text":"Your code is {code:06}. It is valid for five minutes."}}"#)
            .into()
    }

    /// Waits until every message accepted since `from` has been read, and answers them all, the newest first.
    pub(super) async fn until_read(&self, from: Time) -> Result<Vec<Accepted>> {
        let mut client = self.target.connect().await?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            // The newest are read last: while they aren't, the rest needn't be looked at.
            let (newest, _) = page(&mut client, from, None).await?;
            if newest.iter().all(Accepted::is_read) {
                let all = list(&mut client, from).await?;
                let Some(other) = all.iter().find(|message| !message.is_read()) else { return Ok(all) };
                if matches!(other.status.as_str(), "failed" | "expired" | "cancelled") {
                    bail!("a message ended as {} instead of read", other.status);
                }
            }
            if Instant::now() > give_up {
                bail!("not all messages were read {} minutes after they were accepted", PATIENCE.as_secs() / 60);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A message as the list shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) id: String,
    pub(super) whatsapp_id: String,
    pub(super) status: String,
    pub(super) created_at: Time,
    pub(super) sent_at: Option<Time>,
    pub(super) read_at: Option<Time>,
}

impl Accepted {
    fn is_read(&self) -> bool {
        self.status == "read"
    }
}

/// Every message accepted since `from`.
pub(super) async fn list(client: &mut Client, from: Time) -> Result<Vec<Accepted>> {
    let (mut all, mut next) = page(client, from, None).await?;
    while let Some(cursor) = next {
        let (more, then) = page(client, from, Some(&cursor)).await?;
        all.extend(more);
        next = then;
    }
    Ok(all)
}

async fn page(client: &mut Client, from: Time, cursor: Option<&str>) -> Result<(Vec<Accepted>, Option<String>)> {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let path = format!("{MESSAGES}?from={from}&limit={PAGE}{cursor}");
    let mut answer = client.call(Method::GET, &path, None).await?;
    let next = answer["pagination"]["next"].as_str().map(str::to_owned);
    let messages = serde_json::from_value(answer["data"].take()).context("a list of messages")?;
    Ok((messages, next))
}

/// A number that the simulator treats like anybody's: never one of its special endings.
fn recipient(n: u64) -> String {
    format!("+1555{:03}{:04}", n / 9_000 % 1_000, 1_000 + n % 9_000)
}

/// Random enough to spread load (SplitMix64), and the same in each run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u32) -> Self {
        Self(u64::from(seed))
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sanasr_shared::recipient::Recipient;

    #[test]
    fn recipients_are_numbers_and_never_special() {
        for n in (0..100_000).step_by(7) {
            let number = recipient(n);
            assert_eq!(Recipient::parse(&number).expect("a number").as_str(), number);
            assert!(number[number.len() - 4..].parse::<u32>().expect("digits") >= 1_000);
        }
    }

    #[test]
    fn a_load_is_evenly_spread() {
        let mut dice = Dice::new(1);
        let low = (0..10_000).filter(|_| dice.below(100) < 50).count();
        assert!((4_500..5_500).contains(&low), "{low}");
    }
}
