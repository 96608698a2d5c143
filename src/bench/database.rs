//! The benchmark's own database: made empty, filled with old messages, and removed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection as Broker, ConnectionProperties};
use sanasr_shared::ids::SessionId;
use sanasr_shared::time::{DAY_MS, Time};
use sqlx::{ConnectOptions, Connection};
use sqlx_postgres::PgConnection;
use sqlx_sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use uuid::Uuid;

/// Rows that one statement makes.
const CHUNK: i64 = 100_000;
/// Ids that are picked for reading.
const SAMPLE: i64 = 1_000;

/// Where the service keeps its messages.
pub(super) enum Database {
    /// The data dir of one process.
    Sqlite(PathBuf),
    /// A database of the benchmark's own.
    Postgres {
        /// Where it is.
        url: String,
        /// From where it was made, and is removed.
        server: String,
        /// Its name.
        name: String,
    },
}

impl Database {
    /// Makes an empty database on the server of `server`: what is there already isn't touched.
    pub(super) async fn create_postgres(server: &str) -> Result<Self> {
        let name = format!("sanasr_bench_{}", Uuid::now_v7().simple());
        let url = with_database(server, &name).context("DATABASE_URL has no host")?;
        let mut connection = PgConnection::connect(server).await.context("connect DATABASE_URL")?;
        sqlx::raw_sql(&format!("CREATE DATABASE {name}"))
            .execute(&mut connection)
            .await
            .context("make a database for the benchmark (the role needs CREATEDB)")?;
        Ok(Self::Postgres { url, server: server.to_owned(), name })
    }

    /// Removes the database, and the queues of its sessions.
    pub(super) async fn remove(&self, amqp: Option<&str>) -> Result<()> {
        let Self::Postgres { url, server, name } = self else { return Ok(()) };
        if let Some(amqp) = amqp
            && let Err(error) = remove_queues(url, amqp).await
        {
            eprintln!("queues left behind: {error:#}");
        }
        let mut connection = PgConnection::connect(server).await?;
        let drop = &(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        sqlx::raw_sql(drop).execute(&mut connection).await.with_context(|| format!("drop database {name}"))?;
        Ok(())
    }

    /// Adds `count` messages of the past to a session, all read, and answers the ids of some of them.
    pub(super) async fn seed(&self, user: i64, session: SessionId, first: i64, count: i64) -> Result<Vec<Uuid>> {
        // A millisecond each, the last one an hour ago.
        let base = Time::now().0 - 3_600_000 - first - count;
        match self {
            Self::Sqlite(data_dir) => {
                let mut connection = open_sqlite(&find_sqlite(data_dir)?).await?;
                for from in (first..first + count).step_by(CHUNK as usize) {
                    sqlx::query(SEED_SQLITE)
                        .bind(from)
                        .bind((from + CHUNK).min(first + count) - 1)
                        .bind(base)
                        .bind(user)
                        .bind(session)
                        .bind(DAY_MS)
                        .execute(&mut connection)
                        .await
                        .context("make old messages")?;
                }
                let sample = sqlx::query_scalar(PICK_SQLITE).bind(user).bind(SAMPLE).fetch_all(&mut connection).await?;
                connection.close().await?;
                Ok(sample)
            }
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await?;
                for from in (first..first + count).step_by(CHUNK as usize) {
                    sqlx::query(SEED_POSTGRES)
                        .bind(from)
                        .bind((from + CHUNK).min(first + count) - 1)
                        .bind(base)
                        .bind(user)
                        .bind(session)
                        .bind(DAY_MS)
                        .execute(&mut connection)
                        .await
                        .context("make old messages")?;
                }
                sqlx::raw_sql("VACUUM (ANALYZE) messages").execute(&mut connection).await?;
                Ok(sqlx::query_scalar(PICK_POSTGRES).bind(user).bind(SAMPLE).fetch_all(&mut connection).await?)
            }
        }
    }
}

/// `$1` to `$2` are the numbers of the messages, `$3` the time of number 0, `$4` the user, `$5` the session, `$6` a day.
const SEED_SQLITE: &str = "
WITH RECURSIVE n(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, sent_at, delivered_at,
    read_at, attempts, unknown_attempts, status, type, open, recipient, whatsapp_id, request_id, content)
SELECT unhex(printf('%012X', $3 + i) || '7' || substr(hex(randomblob(2)), 1, 3) || '8' || substr(hex(randomblob(8)), 1, 15)),
    $4, $5, $3 + i, $3 + i + $6, $3 + i, ($3 + i) / $6, $3 + i, $3 + i,
    $3 + i, 1, 1, 5, 0, 0, '+1555' || printf('%07d', 1000000 + i % 8000000), '3EB0' || substr(hex(randomblob(9)), 1, 18),
    'bench', '{\"text\":\"Your code is 123456. It is valid for five minutes.\"}'
FROM n";
const SEED_POSTGRES: &str = "
INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, sent_at, delivered_at,
    read_at, attempts, unknown_attempts, status, type, open, recipient, whatsapp_id, request_id, content)
SELECT (lpad(to_hex($3 + i), 12, '0') || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid,
    $4::bigint, $5::uuid, $3 + i, $3 + i + $6::bigint, $3 + i, ($3 + i) / $6::bigint, $3 + i, $3 + i,
    $3 + i, 1, 1, 5, 0, false, '+1555' || lpad((1000000 + i % 8000000)::text, 7, '0'), '3EB0' || upper(substr(md5(random()::text), 1, 18)),
    'bench', '{\"text\":\"Your code is 123456. It is valid for five minutes.\"}'
FROM generate_series($1::bigint, $2::bigint) AS n(i), (SELECT $3::bigint) AS base";
/// Some of a user's old messages, from all over the table.
const PICK_SQLITE: &str = "
WITH pick(seq) AS (SELECT abs(random()) % (SELECT max(seq) FROM messages) FROM messages LIMIT $2)
SELECT id FROM (SELECT (SELECT id FROM messages m WHERE m.seq >= pick.seq AND m.user_id = $1 ORDER BY m.seq LIMIT 1) AS id FROM pick)
WHERE id IS NOT NULL";
const PICK_POSTGRES: &str = "
SELECT id FROM messages TABLESAMPLE SYSTEM (1) WHERE user_id = $1 ORDER BY random() LIMIT $2";

/// Opens a SQLite file with the durability that the service has.
pub(super) async fn open_sqlite(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", "4000")
        .busy_timeout(Duration::from_secs(30))
        .disable_statement_logging();
    options.connect().await.with_context(|| format!("open {}", path.display()))
}

/// The database in a data dir: the file that begins as SQLite's do.
fn find_sqlite(data_dir: &Path) -> Result<PathBuf> {
    use std::io::Read;
    for entry in std::fs::read_dir(data_dir).with_context(|| format!("read {}", data_dir.display()))? {
        let path = entry?.path();
        let mut head = [0; 16];
        if path.is_file() && std::fs::File::open(&path)?.read_exact(&mut head).is_ok() && head == *b"SQLite format 3\0"
        {
            return Ok(path);
        }
    }
    bail!("no SQLite database in {}", data_dir.display())
}

async fn remove_queues(url: &str, amqp: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let deployment: String = sqlx::query_scalar("SELECT id FROM deployment").fetch_one(&mut connection).await?;
    let sessions: Vec<SessionId> = sqlx::query_scalar("SELECT id FROM sessions").fetch_all(&mut connection).await?;
    let broker = Broker::connect(amqp, ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    for session in sessions {
        let queue = format!("{deployment}.send.{session}");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    channel.queue_delete(super::floor::QUEUE.into(), QueueDeleteOptions::default()).await?;
    broker.close(200, "done".into()).await?;
    Ok(())
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let authority = before.split_once('/').map_or(before, |(authority, _)| authority);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{scheme}://{authority}/{name}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_is_replaced() {
        for (url, other) in [
            ("postgres://u:p@h:5432/db", "postgres://u:p@h:5432/x"),
            ("postgres://h", "postgres://h/x"),
            ("postgres:///db?host=/run/postgresql", "postgres:///x?host=/run/postgresql"),
        ] {
            assert_eq!(with_database(url, "x").as_deref(), Some(other));
        }
        assert_eq!(with_database("nonsense", "x"), None);
    }

    #[tokio::test]
    async fn old_messages_are_made_and_picked() {
        let folder = super::super::service::Folder::new(&std::env::temp_dir()).expect("a folder");
        let path = folder.path().join("some.db");
        let mut connection = open_sqlite(&path).await.expect("a database");
        let schema = include_str!("../../migrations/sqlite/0001_initial.sql");
        sqlx::raw_sql(schema).execute(&mut connection).await.expect("the schema");
        connection.close().await.expect("closed");

        let database = Database::Sqlite(folder.path().to_owned());
        let session = SessionId::generate();
        let few = database.seed(7, session, 0, 1_000).await.expect("seeded");
        assert!(!few.is_empty() && few.iter().all(|id| id.get_version_num() == 7));
        database.seed(7, session, 1_000, 500).await.expect("seeded again");
        let mut connection = open_sqlite(&path).await.expect("a database");
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE status = 5 AND user_id = 7")
            .fetch_one(&mut connection)
            .await
            .expect("a count");
        assert_eq!(count, 1_500);
    }
}
