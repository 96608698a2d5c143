//! The composition root: which implementation of each port a process has, what it runs, and how it stops.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use sanasr_api::{Bounds, OpsParts};
use sanasr_shared::bridge::simulator::Simulator;
use sanasr_shared::bridge::whatsapp::Whatsapp;
use sanasr_shared::lifecycle::{Watchdog, stop_on_signals, wait_for};
use sanasr_shared::media::FileStore;
use sanasr_shared::ports::bridge::Bridge;
use sanasr_shared::ports::queue::Queue;
use sanasr_shared::ports::signals::Signals;
use sanasr_shared::ports::store::{AcceptHook, Store, StoreError};
use sanasr_shared::queue::memory::MemoryQueue;
use sanasr_shared::queue::rabbitmq::RabbitQueue;
use sanasr_shared::secret::{self, SecretKey};
use sanasr_shared::settings::{
    AcceptSettings, HttpSettings, LogSettings, MediaSettings, ServiceSettings, SimulatorSettings, StoreSettings,
    TokenSettings, WhatsappSettings, WorkerSettings,
};
use sanasr_shared::signals::memory::MemorySignals;
use sanasr_shared::signals::redis::RedisSignals;
use sanasr_shared::store::{postgres, sqlite};
use sanasr_shared::telemetry;
use sanasr_shared::vault::Vault;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{AllArgs, ApiArgs, MigrateArgs, WorkerArgs, data_dir, descriptors, env_file, first_run, variables};

/// The address of the API, unless another is set.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// How long requests in flight may take to finish on a stop.
const API_DRAIN: Duration = Duration::from_millis(1_500);
/// How long messages in flight may take to finish on a stop.
const WORKER_DRAIN: Duration = Duration::from_millis(2_500);
/// How long a stop may take, whatever is away. The promise is five seconds, and the process's own end takes some of them on a
/// busy machine.
const STOP_MAX: Duration = Duration::from_millis(4_200);

/// Everything in one process.
pub(crate) async fn all(args: AllArgs) -> anyhow::Result<()> {
    start_logs(&args.log)?;
    let stop = stop_on_signals()?;
    let listener = listen(args.http.listen, DEFAULT_LISTEN).await?;
    let address = listener.local_addr()?;
    let secret = secret(&args.services, &args.store)?;
    args.whatsapp.url().map_err(anyhow::Error::msg)?;
    let watchdog = Watchdog::default();
    let metrics = Metrics::start(&args.http, &watchdog).await?;
    let opened = Ports::open(&args.store, &args.services, &args.media, true, &watchdog, &stop).await?;
    let Some(ports) = opened else { return Ok(()) };
    let bridges = bridges(&args.simulator, &args.whatsapp, &ports, &secret)?;
    first_run::everything(&*ports.store, &args.admin, &args.accept, address).await?;

    metrics.serve(&ports, &stop);
    let settings = ApiSettings { http: args.http, accept: args.accept, tokens: args.tokens, media: args.media.clone() };
    guarded(&watchdog, &stop, async {
        let worker = ports.worker(bridges, args.worker, args.media, &secret);
        let api = serve_api(ports.clone(), settings, secret, listener, metrics.clone(), stop.clone());
        let api = serve(&watchdog, "the API", &stop, api);
        sanasr_worker::run(worker, stop.clone(), WORKER_DRAIN).await;
        api.await?;
        ports.close().await;
        Ok(())
    })
    .await
}

/// Works until the end, or until the watchdog gives the process up, or a stop takes too long, because the database is away perhaps:
/// then everything is dropped as it is, and what this process owned is free when its lease is over.
async fn guarded(
    watchdog: &Watchdog,
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        biased;
        why = watchdog.failed() => Err(Failed(why).into()),
        done = work => done,
        () = late => {
            tracing::warn!("stopping without waiting any longer for what is being written or closed");
            Ok(())
        }
    }
}

/// A part of the process has failed that can't be started again.
#[derive(Debug, thiserror::Error)]
#[error("{0}; the process ends, so that another takes over")]
pub(crate) struct Failed(String);

/// Runs a server in a task of its own. If it ends before the stop, in whatever way, the process ends.
fn serve(
    watchdog: &Watchdog,
    name: &'static str,
    stop: &CancellationToken,
    server: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let (watchdog, stop) = (watchdog.clone(), stop.clone());
    tokio::spawn(async move {
        watchdog.vital(name, server).await;
        if !stop.is_cancelled() {
            watchdog.fail(format!("{name} ended"));
        }
    })
}

/// The API alone.
pub(crate) async fn api(args: ApiArgs) -> anyhow::Result<()> {
    start_logs(&args.log)?;
    require_services(&args.store, &args.services)?;
    let secret = secret(&args.services, &args.store)?;
    let stop = stop_on_signals()?;
    let listener = listen(args.http.listen, DEFAULT_LISTEN).await?;
    let watchdog = Watchdog::default();
    let metrics = Metrics::start(&args.http, &watchdog).await?;
    let opened = Ports::open(&args.store, &args.services, &args.media, false, &watchdog, &stop).await?;
    let Some(ports) = opened else { return Ok(()) };
    first_run::admin_only(&*ports.store, &args.admin, &args.accept).await?;
    metrics.serve(&ports, &stop);
    let settings = ApiSettings { http: args.http, accept: args.accept, tokens: args.tokens, media: args.media };
    guarded(&watchdog, &stop, async {
        serve(&watchdog, "the API", &stop, serve_api(ports.clone(), settings, secret, listener, metrics, stop.clone()))
            .await?;
        ports.close().await;
        Ok(())
    })
    .await
}

/// A worker alone.
pub(crate) async fn worker(args: WorkerArgs) -> anyhow::Result<()> {
    start_logs(&args.log)?;
    require_services(&args.store, &args.services)?;
    let secret = secret(&args.services, &args.store)?;
    args.whatsapp.url().map_err(anyhow::Error::msg)?;
    let stop = stop_on_signals()?;
    let listener = match args.http.listen {
        Some(address) => Some(listen(Some(address), DEFAULT_LISTEN).await?),
        None => None,
    };
    let watchdog = Watchdog::default();
    let metrics = Metrics::start(&args.http, &watchdog).await?;
    let opened = Ports::open(&args.store, &args.services, &args.media, false, &watchdog, &stop).await?;
    let Some(ports) = opened else { return Ok(()) };
    let bridges = bridges(&args.simulator, &args.whatsapp, &ports, &secret)?;
    metrics.serve(&ports, &stop);
    guarded(&watchdog, &stop, async {
        let ops = listener.map(|listener| {
            let allow = Some(metrics.http.metrics_allow.clone());
            let server = serve_ops(ports.clone(), listener, metrics, allow, stop.clone());
            serve(&watchdog, "health and metrics", &stop, server)
        });
        sanasr_worker::run(ports.worker(bridges, args.worker, args.media, &secret), stop.clone(), WORKER_DRAIN).await;
        if let Some(ops) = ops {
            ops.await?;
        }
        ports.close().await;
        Ok(())
    })
    .await
}

/// Brings the schema up to date.
pub(crate) async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    start_logs(&args.log)?;
    let stop = stop_on_signals()?;
    let Some(url) = args.store.database_url.as_deref() else {
        // Opening the embedded database migrates it.
        open_for_administration(&args.store).await?.close().await;
        return Ok(());
    };
    check_database_url(url)?;
    let migrated = wait_for("the database", &stop, || async {
        match postgres::migrate(url).await {
            Err(error) if error.is_transient() => Err(error),
            decided => Ok(decided),
        }
    });
    match migrated.await {
        Some(result) => result?,
        None => return Ok(()),
    }
    writeln!(std::io::stdout(), "the schema is up to date")?;
    Ok(())
}

/// The store, for a command that changes something and ends: no waiting.
pub(crate) async fn open_for_administration(settings: &StoreSettings) -> anyhow::Result<Arc<dyn Store>> {
    let nothing: AcceptHook = Arc::new(|_| {});
    match settings.database_url.as_deref() {
        Some(url) => {
            check_database_url(url)?;
            Ok(postgres::Postgres::connect(url, 1, nothing).await?)
        }
        None => {
            let lock = data_dir::lock(&settings.data_dir)
                .context("stop the running service for this, or use its API, which can do the same (/api/v1/users)")?;
            let store = open_embedded(&settings.data_dir, nothing).await?;
            // Held until the process ends.
            std::mem::forget(lock);
            Ok(store)
        }
    }
}

/// Starts the logs as set, and has as many file descriptors as the process may have.
pub(crate) fn start_logs(settings: &LogSettings) -> anyhow::Result<()> {
    telemetry::init_logs(settings).map_err(anyhow::Error::msg)?;
    env_file::tell();
    variables::warn_of_unknown();
    descriptors::raise();
    Ok(())
}

/// What a process works with.
#[derive(Clone)]
struct Ports {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    signals: Arc<dyn Signals>,
    /// The shard of this process in the usage stats.
    shard: i64,
    files: FileStore,
    /// The embedded database: nobody else can live.
    alone: bool,
    watchdog: Watchdog,
    _lock: Option<Arc<File>>,
}

impl Ports {
    /// Opens the ports as the settings say, waiting for the database; `None` if stopped meanwhile.
    async fn open(
        store: &StoreSettings,
        services: &ServiceSettings,
        media: &MediaSettings,
        migrate: bool,
        watchdog: &Watchdog,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        // The queue's names need the deployment's id, which the store knows: the hook finds the queue once it is there.
        let late: Arc<OnceLock<Arc<dyn Queue>>> = Arc::default();
        let hook: AcceptHook = {
            let late = late.clone();
            Arc::new(move |jobs| {
                if let Some(queue) = late.get() {
                    queue.publish(jobs);
                }
            })
        };
        let mut lock = None;
        let opened: Arc<dyn Store> = match store.database_url.as_deref() {
            None => {
                lock = Some(Arc::new(data_dir::lock(&store.data_dir)?));
                open_embedded(&store.data_dir, hook).await?
            }
            Some(url) => {
                check_database_url(url)?;
                let opened = wait_for("the database", stop, || async {
                    let opened = async {
                        if migrate {
                            postgres::migrate(url).await?;
                        }
                        postgres::Postgres::connect(url, store.database_connections, hook.clone()).await
                    };
                    match opened.await {
                        Err(error) if error.is_transient() => Err(error),
                        decided => Ok(decided),
                    }
                });
                match opened.await {
                    Some(decided) => decided?,
                    None => return Ok(None),
                }
            }
        };
        data_dir::make(&store.data_dir)?;
        let files = FileStore::open(media, &store.data_dir).map_err(anyhow::Error::msg)?;
        let queue: Arc<dyn Queue> = match services.amqp_url.as_deref() {
            None => Arc::new(MemoryQueue::new()),
            Some(url) => RabbitQueue::start(url, opened.deployment(), services.queue_type, watchdog)
                .map_err(|e| anyhow::anyhow!("AMQP_URL: {e}"))?,
        };
        let signals: Arc<dyn Signals> = match services.redis_url.as_deref() {
            None => Arc::new(MemorySignals::new()),
            Some(url) => RedisSignals::start(url, opened.deployment(), watchdog)
                .map_err(|e| anyhow::anyhow!("REDIS_URL: {e}"))?,
        };
        let _ = late.set(queue.clone());
        // Not 0, which old shards are folded into; the next number is this process's, too.
        let shard = i64::from(uuid::Uuid::now_v7().as_fields().0) << 20 | i64::from(std::process::id()) << 1 | 1 << 62;
        Ok(Some(Self {
            store: opened,
            queue,
            signals,
            shard,
            files,
            alone: store.database_url.is_none(),
            watchdog: watchdog.clone(),
            _lock: lock,
        }))
    }

    fn worker(
        &self,
        bridges: Vec<Arc<dyn Bridge>>,
        settings: WorkerSettings,
        media: MediaSettings,
        secret: &SecretKey,
    ) -> sanasr_worker::Parts {
        sanasr_worker::Parts {
            store: self.store.clone(),
            queue: self.queue.clone(),
            signals: self.signals.clone(),
            bridges,
            settings,
            media,
            files: self.files.clone(),
            shard: self.shard,
            alone: self.alone,
            vault: Arc::new(Vault::new(secret)),
            watchdog: self.watchdog.clone(),
        }
    }

    async fn close(&self) {
        self.queue.close().await;
        self.signals.close().await;
        self.store.close().await;
    }
}

/// What the API is told.
struct ApiSettings {
    http: HttpSettings,
    accept: AcceptSettings,
    tokens: TokenSettings,
    media: MediaSettings,
}

async fn serve_api(
    ports: Ports,
    settings: ApiSettings,
    secret: SecretKey,
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
    }
    let bounds = Bounds {
        connections: descriptors::connections(settings.http.connection_limit),
        trusted: settings.http.trusted_proxies.clone(),
    };
    let router = sanasr_api::router(sanasr_api::Parts {
        store: ports.store,
        queue: ports.queue,
        signals: ports.signals,
        http: settings.http,
        accept: settings.accept,
        tokens: settings.tokens,
        media: settings.media,
        files: ports.files,
        secret,
        metrics: metrics.render(),
        // A row of its own beside the worker's two.
        shard: ports.shard.wrapping_add(2),
        watchdog: ports.watchdog,
    });
    sanasr_api::serve(listener, router, bounds, stop, API_DRAIN).await;
}

/// Connections that health checks and metrics may hold.
const OPS_CONNECTIONS: usize = 64;

/// Serves health, and metrics for these networks, or for everybody on a listener of their own.
async fn serve_ops(
    ports: Ports,
    listener: TcpListener,
    metrics: Metrics,
    metrics_allow: Option<Vec<IpNet>>,
    stop: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("health and metrics on http://{address}");
    }
    let router = sanasr_api::ops_router(OpsParts {
        store: ports.store,
        queue: ports.queue,
        signals: ports.signals,
        metrics: metrics.render(),
        watchdog: ports.watchdog,
        metrics_allow,
        trusted_proxies: metrics.http.trusted_proxies.clone(),
    });
    let bounds = Bounds { connections: OPS_CONNECTIONS, trusted: Vec::new() };
    sanasr_api::serve(listener, router, bounds, stop, API_DRAIN).await;
}

/// What is counted, and the listener of its own if one is set.
#[derive(Clone)]
struct Metrics {
    render: sanasr_api::RenderMetrics,
    listener: Arc<OnceLock<TcpListener>>,
    http: Arc<HttpSettings>,
}

impl Metrics {
    async fn start(http: &HttpSettings, watchdog: &Watchdog) -> anyhow::Result<Self> {
        let handle = telemetry::init_metrics().map_err(anyhow::Error::msg)?;
        let listener = OnceLock::new();
        if let Some(address) = http.metrics_listen {
            let _ = listener.set(listen(Some(address), DEFAULT_LISTEN).await?);
        }
        // Histograms are folded when they are read; if nobody reads them, they must be folded all the same.
        let (upkeep, owner) = (handle.clone(), watchdog.clone());
        tokio::spawn(async move {
            owner
                .keep("folding histograms", async |_| {
                    loop {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        upkeep.run_upkeep();
                    }
                })
                .await;
        });
        let reporter = watchdog.clone();
        tokio::spawn(async move { reporter.keep("watching the parts", |_| reporter.report()).await });
        Ok(Self {
            render: Arc::new(move || handle.render()),
            listener: Arc::new(listener),
            http: Arc::new(http.clone()),
        })
    }

    fn render(&self) -> sanasr_api::RenderMetrics {
        self.render.clone()
    }

    /// Serves the listener of its own, if there is one.
    fn serve(&self, ports: &Ports, stop: &CancellationToken) {
        let Some(listener) = self.listener.get() else { return };
        let Ok(listener) = listener.local_addr().and_then(|_| clone_listener(listener)) else { return };
        let server = serve_ops(ports.clone(), listener, self.clone(), None, stop.clone());
        drop(serve(&ports.watchdog, "metrics", stop, server));
    }
}

fn clone_listener(listener: &TcpListener) -> std::io::Result<TcpListener> {
    use std::os::fd::AsFd;
    let owned = listener.as_fd().try_clone_to_owned()?;
    TcpListener::from_std(owned.into())
}

fn bridges(
    simulator: &SimulatorSettings,
    whatsapp: &WhatsappSettings,
    ports: &Ports,
    secret: &SecretKey,
) -> anyhow::Result<Vec<Arc<dyn Bridge>>> {
    let simulator = Simulator::new(simulator).map_err(anyhow::Error::msg)?;
    let url = whatsapp.url().map_err(anyhow::Error::msg)?;
    let whatsapp = Whatsapp::new(Arc::clone(&ports.store), secret, url).map_err(anyhow::Error::msg)?;
    Ok(vec![Arc::new(simulator), Arc::new(whatsapp)])
}

async fn listen(address: Option<SocketAddr>, default: &str) -> anyhow::Result<TcpListener> {
    let address = match address {
        Some(address) => address,
        None => default.parse().context("the default address")?,
    };
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; choose another address with SANASR_LISTEN"))
}

fn require_services(store: &StoreSettings, services: &ServiceSettings) -> anyhow::Result<()> {
    let given = [
        ("DATABASE_URL", store.database_url.is_some()),
        ("AMQP_URL", services.amqp_url.is_some()),
        ("REDIS_URL", services.redis_url.is_some()),
    ];
    let missing: Vec<&str> = given.iter().filter(|(_, given)| !given).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        bail!(
            "set {}: processes of several kinds meet at PostgreSQL, RabbitMQ and Redis. `sanasr` without a command runs \
             everything in one process and needs none of them",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The secret key as set, or that in the data dir, which is made if there is none.
fn secret(services: &ServiceSettings, store: &StoreSettings) -> anyhow::Result<SecretKey> {
    if let Some(url) = store.database_url.as_deref() {
        check_database_url(url)?;
    }
    match services.secret_key.as_deref() {
        Some(key) => SecretKey::parse(key).map_err(|why| anyhow::anyhow!("SANASR_SECRET_KEY {why}")),
        None if store.database_url.is_some() => {
            bail!(
                "set SANASR_SECRET_KEY to any text of {} characters or more, the same for every process, \
                 for example the output of `openssl rand -hex 32`",
                secret::LENGTH_MIN
            )
        }
        None => {
            data_dir::make(&store.data_dir)?;
            let path = store.data_dir.join("secret-key");
            if !path.exists() {
                let mut file = File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .with_context(|| format!("can't write {}", path.display()))?;
                writeln!(file, "{:032x}{:032x}", rand_u128(), rand_u128())?;
            }
            let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
            SecretKey::parse(text.trim()).map_err(|why| {
                anyhow::anyhow!("{} {why}; remove it, and a new one is made: all logins end then", path.display())
            })
        }
    }
}

fn rand_u128() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn check_database_url(url: &str) -> anyhow::Result<()> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(());
    }
    bail!("DATABASE_URL must begin with postgres:// (leave it out for the embedded database)")
}

async fn open_embedded(data_dir: &Path, hook: AcceptHook) -> anyhow::Result<Arc<dyn Store>> {
    let path = data_dir.join("sanasr.db");
    sqlite::open(&path, hook).await.map_err(|error| match error {
        StoreError::Unavailable(text) => anyhow::anyhow!("can't open {}: {text}", path.display()),
        other => other.into(),
    })
}
