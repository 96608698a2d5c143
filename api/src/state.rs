//! What the handlers share.

use std::ops::Deref;
use std::sync::Arc;

use sanasr_shared::ids::UserId;
use sanasr_shared::lifecycle::Watchdog;
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::signals::{Signal, Signals};
use sanasr_shared::ports::store::Store;
use sanasr_shared::settings::{AcceptSettings, HttpSettings, MediaSettings};
use sanasr_shared::vault::Vault;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Parts;
use crate::api_logs::ApiLogs;
use crate::audit::AuditWriter;
use crate::auth::jwt::Tokens;
use crate::auth::keys::Keys;
use crate::auth::passwords::Passwords;
use crate::auth::tokens::KnownLogins;
use crate::auth::watch::Watch;
use crate::backlog::BacklogGate;
use crate::events::{self, Hub};
use crate::keys_used::KeysUsed;
use crate::limits::Limits;
use crate::logins::regulars::Regulars;
use crate::messages::waiters::Waiters;
use crate::reads::Reads;
use crate::requests::Requests;
use crate::room::Room;
use crate::sessions::resolve::KnownSessions;
use crate::work::Work;
use crate::{body, multipart};

/// The handlers' state; clones are the same.
#[derive(Clone)]
pub(crate) struct App(Arc<State>);

pub(crate) struct State {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) http: HttpSettings,
    pub(crate) accept: AcceptSettings,
    pub(crate) keys: Arc<Keys>,
    pub(crate) keys_used: Arc<KeysUsed>,
    pub(crate) logins: Arc<KnownLogins>,
    /// Ends what is open with the credentials that it was asked for with.
    pub(crate) watch: Arc<Watch>,
    pub(crate) tokens: Tokens,
    pub(crate) passwords: Passwords,
    pub(crate) regulars: Arc<Regulars>,
    pub(crate) sessions: Arc<KnownSessions>,
    pub(crate) backlog: Arc<BacklogGate>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) requests: Arc<Requests>,
    /// `None` if they are turned off.
    pub(crate) api_logs: Option<Arc<ApiLogs>>,
    pub(crate) audit: Arc<AuditWriter>,
    pub(crate) events: Arc<Hub>,
    /// Memory for bodies and pages, in KiB.
    pub(crate) bodies: Room,
    pub(crate) media: MediaSettings,
    pub(crate) files: FileStore,
    pub(crate) uploads: Room,
    /// Requests that may change something.
    pub(crate) work: Work,
    pub(crate) reads: Arc<Reads>,
    pub(crate) limits: Arc<Limits>,
    /// Seals what only workers may read.
    pub(crate) vault: Arc<Vault>,
    /// The process stops: nobody waits any longer.
    pub(crate) stopping: CancellationToken,
    /// Ends this API's tasks with it.
    _life: DropGuard,
}

impl Deref for App {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl App {
    /// Makes the state and starts its tasks.
    pub(crate) fn start(parts: Parts) -> Self {
        let life = CancellationToken::new();
        let keys = Arc::new(Keys::new());
        let logins = Arc::new(KnownLogins::new());
        let watch = Watch::start(Arc::clone(&parts.store), life.clone());
        let waiters = Arc::new(Waiters::default());
        let vault = Arc::new(Vault::new(&parts.secret));
        let events = Hub::new(Arc::clone(&parts.store), Arc::clone(&vault), parts.http.streams_per_user);
        let stopping = CancellationToken::new();
        let watchdog = &parts.watchdog;
        events::tasks::start(&events, watchdog, stopping.clone(), life.clone());
        let ears = Ears {
            keys: Arc::clone(&keys),
            logins: Arc::clone(&logins),
            watch: Arc::clone(&watch),
            waiters: Arc::clone(&waiters),
            events: Arc::clone(&events),
        };
        listen(Arc::clone(&parts.signals), ears, watchdog, life.clone());
        Self(Arc::new(State {
            keys,
            keys_used: KeysUsed::start(Arc::clone(&parts.store), watchdog, life.clone()),
            logins,
            watch,
            tokens: Tokens::new(parts.store.deployment(), &parts.secret, &parts.tokens),
            vault,
            passwords: Passwords::start(watchdog),
            regulars: Regulars::start(Arc::clone(&parts.store), life.clone()),
            sessions: Arc::new(KnownSessions::new()),
            backlog: Arc::new(BacklogGate::new(Arc::clone(&parts.store), &parts.accept)),
            waiters,
            requests: Requests::start(Arc::clone(&parts.store), parts.shard, watchdog, life.clone()),
            api_logs: parts.http.api_logs.then(|| ApiLogs::start(Arc::clone(&parts.store), watchdog, life.clone())),
            audit: AuditWriter::start(Arc::clone(&parts.store), watchdog, life.clone()),
            events,
            bodies: body::room(&parts.http),
            files: parts.files,
            work: Work::new(),
            uploads: multipart::room(parts.media.uploads),
            media: parts.media,
            reads: Arc::new(Reads::new(Arc::clone(&parts.store), parts.http.reads)),
            limits: Limits::start(&parts.http, watchdog, life.clone()),
            stopping,
            store: parts.store,
            signals: parts.signals,
            http: parts.http,
            accept: parts.accept,
            _life: life.drop_guard(),
        }))
    }

    /// A user's standing, keys or logins have changed: here it is forgotten at once, and elsewhere as soon as they hear.
    pub(crate) fn standing_changed(&self, user: UserId) {
        self.keys.forget_all();
        self.logins.forget_all();
        self.watch.doubt();
        self.signals.publish(Signal::User(user));
    }
}

/// Who must know of signals.
struct Ears {
    keys: Arc<Keys>,
    logins: Arc<KnownLogins>,
    watch: Arc<Watch>,
    waiters: Arc<Waiters>,
    events: Arc<Hub>,
}

impl Ears {
    /// Anything may have happened.
    fn all(&self) {
        self.forget_people();
        self.waiters.wake_all();
        self.events.ring();
    }

    fn forget_people(&self) {
        self.keys.forget_all();
        self.logins.forget_all();
        self.watch.doubt();
    }
}

/// Passes on what the signals say, from now on, not from when the task first runs.
fn listen(signals: Arc<dyn Signals>, ears: Ears, watchdog: &Watchdog, life: CancellationToken) {
    let (mut first, watchdog) = (Some(signals.subscribe()), watchdog.clone());
    tokio::spawn(async move {
        let hear = |_| {
            let heard = first.take().unwrap_or_else(|| {
                // Started again: what was said meanwhile was missed.
                let heard = signals.subscribe();
                ears.all();
                heard
            });
            hear(heard, &ears, &life)
        };
        watchdog.keep("hearing of changes", hear).await;
    });
}

async fn hear(mut heard: Receiver<Arc<Signal>>, ears: &Ears, life: &CancellationToken) {
    while let Some(signal) = life.run_until_cancelled(heard.recv()).await {
        match signal.as_deref() {
            Ok(Signal::Messages(ids)) => {
                ears.waiters.wake(ids);
                ears.events.ring();
            }
            Ok(Signal::User(_)) => ears.forget_people(),
            Ok(Signal::Session(_)) => ears.events.ring(),
            Ok(Signal::SessionFree) => {}
            Ok(Signal::Missed) | Err(RecvError::Lagged(_)) => ears.all(),
            Err(RecvError::Closed) => return,
        }
    }
}
