//! A whole system: its processes, its database, its broker, its ledger and its first users.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::client::Client;
use super::folder::Folder;
use super::ledger::Ledger;
use super::process::{Launch, Process};
use super::services::{Database, Kind, Vhost};
use super::wait::seconds;

/// How the system is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One process, nothing else.
    Embedded,
    /// API and worker processes around PostgreSQL, RabbitMQ and Redis.
    Distributed,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    AllInOne,
    Api,
    Worker,
}

/// The user whom every system has, with more quota than any test uses up and its session `default` connected.
pub(crate) const TESTER: &str = "tester";
const TESTER_LIMIT: i64 = 100_000_000;
/// The admin whom every system has once [`System::admin`] is asked for.
pub(crate) const ADMIN: &str = "admin";
/// Everybody's password.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A running system. It ends with its owner: the processes first, then what they used.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) mode: Mode,
    /// The processes with an API, the all-in-one among them.
    pub(crate) apis: Vec<Server>,
    pub(crate) workers: Vec<Server>,
    pub(crate) ledger: Ledger,
    /// Environment of every process.
    env: BTreeMap<String, String>,
    keys: BTreeMap<String, String>,
    started: usize,
    admin_token: OnceCell<String>,
    database: Option<Database>,
    _vhost: Option<Vhost>,
    folder: Folder,
}

/// A process that serves HTTP.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    /// Such as `http://127.0.0.1:12345`.
    pub(crate) origin: String,
}

/// A system to be started.
#[derive(Debug)]
pub(crate) struct Builder {
    mode: Mode,
    apis: usize,
    workers: usize,
    users: Vec<(String, i64)>,
    env: BTreeMap<String, String>,
    connect: bool,
}

impl System {
    /// A system as users would start it first: one process, or one API and one worker.
    pub(crate) async fn start(mode: Mode) -> Self {
        Self::with(mode).start().await
    }

    /// A system to be described further.
    pub(crate) fn with(mode: Mode) -> Builder {
        Builder { mode, apis: 1, workers: 1, users: Vec::new(), env: BTreeMap::new(), connect: true }
    }

    /// The tester at the first API.
    pub(crate) fn client(&self) -> Client {
        self.client_of(TESTER, 0)
    }

    /// The tester at an API; those beyond the last begin again with the first.
    pub(crate) fn client_at(&self, api: usize) -> Client {
        self.client_of(TESTER, api)
    }

    /// A user at an API.
    pub(crate) fn client_of(&self, user: &str, api: usize) -> Client {
        let key = self.keys.get(user).unwrap_or_else(|| panic!("no user {user}"));
        Client::new(&self.apis[api % self.apis.len()].origin, key)
    }

    /// The admin at the first API, logged in.
    pub(crate) async fn admin(&self) -> Client {
        self.admin_at(0).await
    }

    /// The admin at an API, logged in; those beyond the last begin again with the first.
    pub(crate) async fn admin_at(&self, api: usize) -> Client {
        let client = self.stranger(api);
        let log_in = async || {
            if self.mode == Mode::Distributed {
                self.create_admin().await;
            }
            let tokens: Value = client.log_in(ADMIN, PASSWORD).await.expect(200).data();
            tokens["access_token"].as_str().expect("an access token").to_owned()
        };
        client.with_token(self.admin_token.get_or_init(log_in).await)
    }

    /// Somebody without credentials at an API.
    pub(crate) fn stranger(&self, api: usize) -> Client {
        Client::new(&self.apis[api % self.apis.len()].origin, "")
    }

    async fn create_admin(&self) {
        let args = ["user", "create", "--username", ADMIN, "--password-stdin", "--admin"];
        let done = self.command("user create", &args).stdin(&format!("{PASSWORD}\n")).run(seconds(30)).await;
        assert_eq!(done.code, Some(0), "user create: {}", done.stderr);
    }

    /// The tester's key.
    pub(crate) fn key(&self) -> &str {
        &self.keys[TESTER]
    }

    /// A connection to the system's PostgreSQL, for assertions on rows.
    pub(crate) async fn database(&self) -> sqlx_postgres::PgPool {
        let url = self.database.as_ref().expect("a distributed system").url();
        sqlx_postgres::PgPoolOptions::new().max_connections(2).connect(url).await.expect("the test's database")
    }

    /// The data dir of the system's processes.
    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.folder.join("data")
    }

    /// The URL of the system's PostgreSQL database.
    pub(crate) fn database_url(&self) -> &str {
        self.database.as_ref().expect("a distributed system").url()
    }

    /// Starts one more process with an API; `env` goes before the system's.
    pub(crate) async fn add_api(&mut self, env: &[(&str, &str)]) -> usize {
        let role = if self.mode == Mode::Embedded { Role::AllInOne } else { Role::Api };
        let server = self.serve(role, env).await;
        self.apis.push(server);
        self.apis.len() - 1
    }

    /// Starts one more worker; `env` goes before the system's.
    pub(crate) async fn add_worker(&mut self, env: &[(&str, &str)]) -> usize {
        let server = self.serve(Role::Worker, env).await;
        self.workers.push(server);
        self.workers.len() - 1
    }

    /// Stops the processes that drive sessions, gracefully.
    pub(crate) async fn stop_drivers(&mut self) {
        let drivers = if self.mode == Mode::Embedded { &mut self.apis } else { &mut self.workers };
        for mut driver in drivers.drain(..) {
            driver.process.stop().await;
        }
    }

    /// Starts one more process that drives sessions; `env` goes before the system's.
    pub(crate) async fn add_driver(&mut self, env: &[(&str, &str)]) {
        if self.mode == Mode::Embedded {
            self.add_api(env).await
        } else {
            self.add_worker(env).await
        };
    }

    async fn serve(&mut self, role: Role, env: &[(&str, &str)]) -> Server {
        let mut process = self.launch(role).envs(env.iter().copied()).spawn();
        let origin = process.address().await;
        Server { process, origin }
    }

    /// A process of this system, not yet started.
    pub(crate) fn launch(&mut self, role: Role) -> Launch {
        self.started += 1;
        let (name, args): (_, &[&str]) = match role {
            Role::AllInOne => ("sanasr", &[]),
            Role::Api => ("api", &["api"]),
            Role::Worker => ("worker", &["worker"]),
        };
        self.command(&format!("{name} {}", self.started), args)
    }

    /// The binary with the system's settings.
    pub(crate) fn command(&self, name: &str, args: &[&str]) -> Launch {
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Launch::sanasr(name, args, self.folder.path()).envs(env)
    }

    /// Makes a user with a key, by the command line.
    async fn create_user(&mut self, name: &str, limit: i64) {
        let limit = limit.to_string();
        let args =
            ["user", "create", "--username", name, "--password-stdin", "--api-key", "--max-messages-per-day", &limit];
        let launch = self.command("user create", &args).stdin(&format!("{PASSWORD}\n"));
        let done = launch.run(seconds(30)).await;
        assert_eq!(done.code, Some(0), "user create: {}", done.stderr);
        let key = find_key(&done.stdout).unwrap_or_else(|| panic!("no key in {:?}", done.stdout));
        self.keys.insert(name.to_owned(), key);
    }
}

impl Builder {
    /// How many API processes; an embedded system has one process whatever is said here.
    pub(crate) fn apis(mut self, count: usize) -> Self {
        self.apis = count;
        self
    }

    /// How many workers, in a distributed system.
    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// One more user, with an API key and so many messages a day.
    pub(crate) fn user(mut self, name: &str, max_messages_per_day: i64) -> Self {
        self.users.push((name.to_owned(), max_messages_per_day));
        self
    }

    /// A setting of every process. `AMQP_URL` and `REDIS_URL` take the place of the shared servers; `DATABASE_URL` names
    /// the server on which the system's own database is made.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Leaves the tester's session unconnected.
    pub(crate) fn unconnected(mut self) -> Self {
        self.connect = false;
        self
    }

    /// Starts it, and waits until every process serves.
    pub(crate) async fn start(self) -> System {
        let folder = Folder::new("system");
        let ledger = Ledger::new(folder.join("ledger.jsonl"));
        let mut env = BTreeMap::from([
            ("SANASR_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("SANASR_DATA_DIR".to_owned(), folder.join("data").display().to_string()),
            ("SANASR_SIMULATOR_LEDGER".to_owned(), ledger.path().display().to_string()),
            ("SANASR_SIMULATOR_SCAN_AFTER".to_owned(), "50ms".to_owned()),
            ("SANASR_SIMULATOR_RECEIPTS".to_owned(), "0".to_owned()),
            ("SANASR_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned()),
        ]);
        let (mut database, mut vhost) = (None, None);
        if self.mode == Mode::Distributed {
            let server = self.env.get("DATABASE_URL").cloned().unwrap_or_else(|| Kind::Postgres.shared());
            let created = Database::create(&server).await;
            env.insert("DATABASE_URL".to_owned(), created.url().to_owned());
            database = Some(created);
            if !self.env.contains_key("AMQP_URL") {
                let created = Vhost::create().await;
                env.insert("AMQP_URL".to_owned(), created.url().to_owned());
                vhost = Some(created);
            }
            if !self.env.contains_key("REDIS_URL") {
                env.insert("REDIS_URL".to_owned(), Kind::Redis.shared());
            }
            env.insert("SANASR_SECRET_KEY".to_owned(), super::unique("secret of tests, never of anything else"));
        }
        env.extend(self.env.into_iter().filter(|(name, _)| name != "DATABASE_URL"));

        let (mode, keys) = (self.mode, BTreeMap::new());
        let (apis, workers) = (Vec::new(), Vec::new());
        let mut system = System {
            mode,
            apis,
            workers,
            ledger,
            env,
            keys,
            started: 0,
            admin_token: OnceCell::new(),
            database,
            _vhost: vhost,
            folder,
        };
        if mode == Mode::Distributed {
            let done = system.command("migrate", &["migrate"]).run(seconds(60)).await;
            assert_eq!(done.code, Some(0), "migrate: {}", done.stderr);
        }
        // An embedded system without further users is started as a newcomer would, and prints its key.
        let by_command = mode == Mode::Distributed || !self.users.is_empty();
        if by_command {
            system.create_user(TESTER, TESTER_LIMIT).await;
            // Once it runs, an embedded system's folder is locked; elsewhere the admin is made when it is asked for.
            if mode == Mode::Embedded {
                system.create_admin().await;
            }
        }
        for (name, limit) in &self.users {
            system.create_user(name, *limit).await;
        }
        let (apis, workers) = if mode == Mode::Embedded { (1, 0) } else { (self.apis, self.workers) };
        for _ in 0..workers {
            system.add_worker(&[]).await;
        }
        for _ in 0..apis {
            system.add_api(&[]).await;
        }
        if !by_command {
            let process = &mut system.apis[0].process;
            process.wait_for_line("sanasr_", seconds(10)).await;
            let printed = process.stdout();
            let key = find_key(&printed).unwrap_or_else(|| panic!("no key in {printed:?}"));
            system.keys.insert(TESTER.to_owned(), key);
        }
        if self.connect && !system.apis.is_empty() {
            system.client().connect("default").await;
        }
        system
    }
}

/// The first API key in a text: `sanasr_<id>_<secret>`.
pub(crate) fn find_key(text: &str) -> Option<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
    words.filter(|word| word.starts_with("sanasr_") && word.len() > 40).map(str::to_owned).next()
}
