//! Ends what is open with the credentials it was asked for with: long polls, event streams, every streamed body, every
//! request whose body is still arriving.
//!
//! An open answer ends within a second of its credentials' end, signals or not: credentials end by time, which needs no look,
//! or because they are revoked, their login ends, or their user is deactivated, deleted or no admin any more, which the store
//! is asked for. One look serves all answers that are open. While the database is away nothing is known to have ended, and
//! nothing new can be read for an answer either.

use std::collections::{HashMap, HashSet};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use sanasr_shared::lifecycle::keep;
use sanasr_shared::ports::store::Store;
use sanasr_shared::time::Time;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Asker;
use super::standing::standing;
use crate::problem::Problem;
use crate::serve::Hangup;

/// Time from one look at an answer's credentials to the next: less than a second by what a look may take.
const LOOK_EVERY: Duration = Duration::from_millis(600);
/// The shortest time between two looks: answers that open in between are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// The pause after a look that failed.
const RETRY: Duration = Duration::from_millis(200);
/// How often the clock is looked at: for credentials that end by time, and for clients that don't read.
const TICK: Duration = Duration::from_millis(100);
/// How long the client of an answer that has ended may take to read its end before its connection is closed.
const GRACE: Duration = Duration::from_secs(1);

/// What is open in this process, by whose credentials.
pub(crate) struct Watch {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    /// Something has opened, or credentials may have ended.
    news: Notify,
}

#[derive(Default)]
struct State {
    open: HashMap<Asker, Group>,
    /// Connections of answers that have ended, until they are closed.
    ending: HashMap<u64, (Instant, Hangup)>,
    last_id: u64,
}

/// What is open by the same credentials.
#[derive(Default)]
struct Group {
    /// When the last look that found them good began; `None` before the first one, and when they are in doubt.
    looked_at: Option<Instant>,
    ended: CancellationToken,
    connections: HashMap<u64, Option<Hangup>>,
}

/// Something that is open; no more when dropped.
struct Open {
    watch: Arc<Watch>,
    asker: Asker,
    id: u64,
    ended: CancellationToken,
}

impl Watch {
    /// Starts to watch, until `life` ends.
    pub(crate) fn start(store: Arc<dyn Store>, life: CancellationToken) -> Arc<Self> {
        let watch = Arc::new(Self { store, state: Mutex::default(), news: Notify::new() });
        let (looks, ticks) = (Arc::clone(&watch), Arc::clone(&watch));
        let looking = async move { keep("looking at open answers", || Arc::clone(&looks).look_on()).await };
        let ticking = async move { keep("ending open answers", || Arc::clone(&ticks).tick()).await };
        tokio::spawn(life.clone().run_until_cancelled_owned(looking));
        tokio::spawn(life.run_until_cancelled_owned(ticking));
        watch
    }

    /// Somebody's credentials may have ended: look at all of them now.
    pub(crate) fn doubt(&self) {
        for group in self.lock().open.values_mut() {
            group.looked_at = None;
        }
        self.news.notify_one();
    }

    /// Waits for something for as long as the credentials are good. `wait` is dropped when they end: it must only read. What
    /// needn't wait costs nothing.
    ///
    /// # Errors
    /// What `wait` answers, or that the credentials have ended.
    pub(crate) async fn hold<T>(
        self: &Arc<Self>,
        asker: Asker,
        wait: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut wait = pin!(wait);
        if let Some(done) = std::future::poll_fn(|context| {
            Poll::Ready(match wait.as_mut().poll(context) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await
        {
            return done;
        }
        let open = self.open(asker, None);
        tokio::select! {
            biased;
            () = open.ended.cancelled() => Err(Problem::credentials_ended()),
            done = wait => done,
        }
    }

    /// A body that ends with the credentials. One that never waits for anything isn't watched.
    pub(crate) fn body(self: &Arc<Self>, asker: Asker, hangup: Hangup, body: Body) -> Body {
        Body::new(Watched { body, watch: Arc::clone(self), asker, hangup, open: None })
    }

    fn open(self: &Arc<Self>, asker: Asker, hangup: Option<Hangup>) -> Open {
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        let group = state.open.entry(asker).or_default();
        group.connections.insert(id, hangup);
        let ended = group.ended.clone();
        drop(state);
        self.news.notify_one();
        Open { watch: Arc::clone(self), asker, id, ended }
    }

    async fn look_on(self: Arc<Self>) {
        let mut failing = false;
        loop {
            let next = self.lock().next_look();
            let _ = tokio::time::timeout(next, self.news.notified()).await;
            if let Err(error) = self.look().await {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "credentials of open answers can't be looked at; trying again");
                }
                tokio::time::sleep(RETRY).await;
            } else {
                failing = false;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Looks at the credentials whose turn it is, and ends what is open by those that have ended.
    async fn look(&self) -> Result<(), sanasr_shared::ports::store::StoreError> {
        let began = Instant::now();
        let askers = self.lock().due(began);
        if askers.is_empty() {
            return Ok(());
        }
        let good = standing(&*self.store, &askers).await?;
        let mut state = self.lock();
        for asker in askers {
            if good.contains(&asker) {
                if let Some(group) = state.open.get_mut(&asker) {
                    group.looked_at = Some(began);
                }
            } else {
                state.end(&asker);
            }
        }
        Ok(())
    }

    async fn tick(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let (now, at) = (Time::now(), Instant::now());
            let mut state = self.lock();
            let over: Vec<Asker> =
                state.open.keys().filter(|asker| asker.until.is_some_and(|until| until <= now)).copied().collect();
            for asker in over {
                state.end(&asker);
            }
            state.ending.retain(|_, (until, hangup)| {
                if *until <= at {
                    hangup.0.cancel();
                }
                *until > at
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long until the next look.
    fn next_look(&self) -> Duration {
        let waits = self.open.values().map(|group| match group.looked_at {
            None => Duration::ZERO,
            Some(at) => LOOK_EVERY.saturating_sub(at.elapsed()),
        });
        waits.min().unwrap_or(Duration::MAX)
    }

    /// Whose turn it is. Others' soon is: they are taken along, so that one look comes to serve all.
    fn due(&self, now: Instant) -> HashSet<Asker> {
        let due = |group: &Group| group.looked_at.is_none_or(|at| now.duration_since(at) >= LOOK_EVERY / 2);
        self.open.iter().filter(|(_, group)| due(group)).map(|(asker, _)| *asker).collect()
    }

    fn end(&mut self, asker: &Asker) {
        let Some(group) = self.open.remove(asker) else { return };
        group.ended.cancel();
        let until = Instant::now() + GRACE;
        let connections = group.connections.into_iter();
        self.ending.extend(connections.filter_map(|(id, hangup)| Some((id, (until, hangup?)))));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.watch.lock();
        state.ending.remove(&self.id);
        if let Some(group) = state.open.get_mut(&self.asker) {
            group.connections.remove(&self.id);
            if group.connections.is_empty() {
                state.open.remove(&self.asker);
            }
        }
    }
}

/// The body of an answer that ends with its credentials.
struct Watched {
    body: Body,
    watch: Arc<Watch>,
    asker: Asker,
    hangup: Hangup,
    /// From the first time on that the body waits.
    open: Option<(Open, Pin<Box<WaitForCancellationFutureOwned>>)>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some((_, ended)) = &mut self.open
            && ended.poll_unpin(context).is_ready()
        {
            self.body = Body::empty();
            self.open = None;
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.open.is_none() {
            let open = self.watch.open(self.asker, Some(self.hangup.clone()));
            let mut ended = Box::pin(open.ended.clone().cancelled_owned());
            let over = ended.poll_unpin(context);
            self.open = Some((open, ended));
            ready!(over);
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
