//! PostgreSQL, RabbitMQ and Redis: those that `tests/run` has started for everybody, and private ones to be killed.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::folder::Folder;

/// What a test needs of the services around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    RabbitMq,
    Redis,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::RabbitMq => "rabbitmq",
            Self::Redis => "redis",
        }
    }

    /// The URL of the server that all tests share.
    pub(crate) fn shared(self) -> String {
        setting(match self {
            Self::Postgres => "SANASR_TEST_POSTGRES_URL",
            Self::RabbitMq => "SANASR_TEST_AMQP_URL",
            Self::Redis => "SANASR_TEST_REDIS_URL",
        })
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} isn't set: this test needs PostgreSQL, RabbitMQ and Redis. Run the tests by `tests/run [FILTER]`, \
             which starts them."
        )
    })
}

/// A server of a test's own. It ends with its owner.
#[derive(Debug)]
pub(crate) struct Service {
    kind: Kind,
    folder: Folder,
    url: String,
    durable: bool,
}

impl Service {
    /// Starts one: PostgreSQL takes about one second, RabbitMQ up to ten.
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::begin(kind, false).await
    }

    /// Starts one that flushes to disk as in production (PostgreSQL; it makes no difference to the others).
    pub(crate) async fn durable(kind: Kind) -> Self {
        Self::begin(kind, true).await
    }

    async fn begin(kind: Kind, durable: bool) -> Self {
        let folder = Folder::new(&format!("service-{}", kind.word()));
        let url = start(kind, folder.path(), durable).await;
        Self { kind, folder, url, durable }
    }

    /// Its URL: the same after every restart.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it at once (SIGKILL).
    pub(crate) async fn kill(&self) {
        self.script(&["stop", self.path(), "--kill"]).await;
    }

    /// Ends it in good order.
    pub(crate) async fn stop(&self) {
        self.script(&["stop", self.path()]).await;
    }

    /// Starts it again, on its port, with what it has kept.
    pub(crate) async fn start_again(&self) {
        let url = start(self.kind, self.folder.path(), self.durable).await;
        assert_eq!(url, self.url, "a server that comes back keeps its URL");
    }

    /// Removes all it has kept. It must be stopped.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.join("data")).expect("the service's data");
    }

    /// Stops it where it stands, connections open (SIGSTOP to all its processes).
    pub(crate) async fn freeze(&self) {
        self.script(&["signal", "STOP", self.path()]).await;
    }

    /// Lets it go on.
    pub(crate) async fn wake(&self) {
        self.script(&["signal", "CONT", self.path()]).await;
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("a path in UTF-8")
    }

    async fn script(&self, args: &[&str]) {
        run(command(args)).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let stopped = command(&["stop", self.path(), "--kill"]).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("{} may still run", self.path());
        }
    }
}

async fn start(kind: Kind, folder: &Path, durable: bool) -> String {
    let mut command = command(&["start", kind.word(), folder.to_str().expect("a path in UTF-8")]);
    if durable {
        command.env("SANASR_TEST_FSYNC", "on");
    }
    run(command).await.trim().to_owned()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services"));
    command.args(args);
    command
}

async fn run(mut command: Command) -> String {
    let what = format!("{command:?}");
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("tests/services");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    String::from_utf8(output.stdout).expect("a URL")
}

/// A database of a test's own; dropped with its owner.
#[derive(Debug)]
pub(crate) struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    /// An empty one on the server that `url` names.
    pub(crate) async fn create(server: &str) -> Self {
        let name = super::unique("sanasr");
        execute(server, format!("CREATE DATABASE {name}")).await.expect("a database");
        let cut = server.rfind('/').filter(|at| server.find("://").is_some_and(|scheme| *at > scheme + 2));
        let url = format!("{}/{name}", cut.map_or(server, |at| &server[..at]));
        Self { server: server.to_owned(), name, url }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        in_the_end(async move { execute(&server, drop).await });
    }
}

async fn execute(url: &str, statement: String) -> Result<(), sqlx::Error> {
    use sqlx::Connection;
    let mut connection = sqlx_postgres::PgConnection::connect(url).await?;
    sqlx::query(&statement).execute(&mut connection).await?;
    connection.close().await
}

/// A vhost of a test's own on the shared RabbitMQ; deleted with its owner.
#[derive(Debug)]
pub(crate) struct Vhost {
    api: String,
    name: String,
    url: String,
}

impl Vhost {
    /// An empty one.
    pub(crate) async fn create() -> Self {
        let (server, api, name) = (Kind::RabbitMq.shared(), setting("SANASR_TEST_AMQP_API"), super::unique("sanasr"));
        let url = format!("{server}/{name}");
        let http = super::client::http();
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        for (path, body) in [(format!("vhosts/{name}"), json!({})), (format!("permissions/{name}/guest"), everything)] {
            let answer = http.put(format!("{api}/{path}")).json(&body).send().await.expect("RabbitMQ's management");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
        }
        Self { api, name, url }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let url = format!("{}/vhosts/{}", self.api, self.name);
        in_the_end(async move { super::client::http().delete(url).send().await });
    }
}

/// Runs something from a `drop`, which may stand inside a runtime. A server that is gone already is no matter.
fn in_the_end<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let _ = runtime.block_on(async { tokio::time::timeout(super::wait::seconds(5), work).await });
        }
    });
    let _ = thread.join();
}
