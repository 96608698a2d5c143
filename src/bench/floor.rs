//! The floor: the least that any program must do for the same work, measured in the same run.
//!
//! A process of its own, as ours is: a bare HTTP handler that reads the same JSON and gives an answer of the same size
//! once the same row is committed, in batches, by one committer, to the same kind of database, into a table that has its
//! primary key alone. With a broker it publishes the same bytes as our jobs, with confirms off the answer's path. No
//! user, no key, no quota, no order, no session, no index.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use axum::serve::ListenerExt;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::{Method, StatusCode};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ConnectionProperties};
use sanasr_shared::group_commit::{Gather, Group, group};
use sanasr_shared::ids::{MessageId, SessionId, new_whatsapp_id};
use sanasr_shared::message::{Content, DEFAULT_LIFE};
use sanasr_shared::ports::store::StoreError;
use sanasr_shared::time::Time;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use sqlx_postgres::PgConnection;
use sqlx_sqlite::SqliteConnection;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::Target;
use super::database::{Database, open_sqlite};
use super::latency::Latencies;
use super::load::MESSAGES;
use super::service::{Process, Service, free_address, this_binary};

/// The queue that its jobs go to.
pub(super) const QUEUE: &str = "sanasr-bench.floor";
/// Rows in one commit, at most.
const BATCH_MAX: usize = 512;
/// Requests that wait for a commit, at most.
const WAITING_MAX: usize = 100_000;
/// Confirms that are awaited at once.
const CONFIRMS_MAX: usize = 256;
/// How often the bare costs are measured.
const REPEATS: usize = 1_000;

// ---- Driving it ----

/// The running floor.
pub(super) struct Floor {
    pub(super) target: Target,
    // Killed with it, and ends by itself if we are.
    _process: Process,
}

impl Floor {
    /// Starts the floor beside a service, with answers of `answer_bytes`.
    pub(super) async fn start(service: &Service, answer_bytes: usize) -> Result<Self> {
        let address = free_address()?;
        let mut command = this_binary(service.folder())?;
        command.args(["bench", "--floor-listen", &address.to_string()]);
        command.args(["--floor-answer-bytes", &answer_bytes.to_string()]);
        command.arg("--dir").arg(service.folder()).stdin(Stdio::piped());
        if let Database::Postgres { url, .. } = &service.database {
            command.env("DATABASE_URL", url);
        }
        if let Some(amqp) = service.amqp() {
            command.env("AMQP_URL", amqp);
        }
        let mut process = Process::spawn("floor", &mut command, service.folder())?;
        process.until_ready(address, "/ready").await?;
        Ok(Self { target: Target::new(&format!("http://{address}"), "none")?, _process: process })
    }

    /// A round trip over HTTP with a body and an answer as an accept has them, and nothing else.
    pub(super) async fn bare_round_trips(&self) -> Result<Latencies> {
        let mut client = self.target.connect().await?;
        let body = Bytes::from_static(
            br#"{"to":"+15551234567","type":"text","session":"bench-1","text":"Your code is 123456."}"#,
        );
        let mut latencies = Latencies::default();
        for _ in 0..REPEATS {
            let begin = Instant::now();
            client.request(Method::POST, "/bare", body.clone()).await?;
            latencies.add(begin.elapsed());
        }
        Ok(latencies)
    }
}

/// A commit of one small row, and nothing else.
pub(super) async fn bare_commits(service: &Service) -> Result<Latencies> {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS bare (n bigint PRIMARY KEY, content text NOT NULL)";
    const INSERT: &str =
        "INSERT INTO bare (n, content) VALUES ($1, 'Your code is 123456. It is valid for five minutes.')";
    let mut latencies = Latencies::default();
    match &service.database {
        Database::Sqlite(_) => {
            let mut connection = open_sqlite(&service.folder().join("bare.db")).await?;
            sqlx::query(TABLE).execute(&mut connection).await?;
            for n in 0..REPEATS as i64 {
                let begin = Instant::now();
                sqlx::query(INSERT).bind(n).execute(&mut connection).await?;
                latencies.add(begin.elapsed());
            }
        }
        Database::Postgres { url, .. } => {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::query(TABLE).execute(&mut connection).await?;
            for n in 0..REPEATS as i64 {
                let begin = Instant::now();
                sqlx::query(INSERT).bind(n).execute(&mut connection).await?;
                latencies.add(begin.elapsed());
            }
        }
    }
    Ok(latencies)
}

// ---- Being it ----

/// What a client sends.
#[derive(Deserialize)]
struct Send<'a> {
    to: &'a str,
    text: &'a str,
}

/// What differs from row to row.
#[derive(Serialize)]
struct Row {
    id: MessageId,
    recipient: String,
    whatsapp_id: String,
    request_id: String,
    content: String,
}

#[derive(Clone)]
struct App {
    rows: Group<Row, ()>,
    jobs: Option<mpsc::Sender<MessageId>>,
    session: SessionId,
    padding: Arc<str>,
}

/// Serves until the benchmark that started it is gone.
pub(super) async fn serve(
    listen: SocketAddr,
    answer_bytes: usize,
    database_url: Option<&str>,
    amqp_url: Option<&str>,
    folder: &Path,
) -> Result<()> {
    let session = SessionId::generate();
    let (rows, gather) = group(WAITING_MAX, BATCH_MAX);
    if let Some(url) = database_url {
        let connection = postgres(url).await?;
        tokio::spawn(commit_postgres(connection, gather, session));
    } else {
        let connection = sqlite(folder).await?;
        tokio::spawn(commit_sqlite(connection, gather, session));
    }
    let jobs = match amqp_url {
        Some(url) => Some(publisher(url, session).await?),
        None => None,
    };
    let envelope = answer(MessageId(Uuid::nil()), "").len();
    let padding = "x".repeat(answer_bytes.saturating_sub(envelope)).into();
    let app = App { rows, jobs, session, padding };
    let router = Router::new()
        .route(MESSAGES, post(accept))
        .route("/bare", post(bare))
        .route("/ready", axum::routing::get(async || StatusCode::OK))
        .with_state(app);
    let listener = TcpListener::bind(listen).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let parent_gone = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = axum::serve(listener, router) => served.context("serve"),
        _ = parent_gone => Ok(()),
    }
}

async fn accept(State(app): State<App>, body: Bytes) -> (StatusCode, String) {
    let Ok(send) = serde_json::from_slice::<Send<'_>>(&body) else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let content = Content { text: Some(send.text.to_owned()), ..Content::default() };
    let id = MessageId::generate();
    let row = Row {
        id,
        recipient: send.to.to_owned(),
        whatsapp_id: new_whatsapp_id(),
        request_id: Uuid::now_v7().to_string(),
        content: serde_json::to_string(&content).unwrap_or_default(),
    };
    if app.rows.commit(row, 1).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    if let Some(jobs) = &app.jobs {
        // As ours: what there is no room for is dropped.
        let _ = jobs.try_send(id);
    }
    (StatusCode::ACCEPTED, answer(id, &app.padding))
}

async fn bare(State(app): State<App>, body: Bytes) -> (StatusCode, String) {
    drop(body);
    (StatusCode::ACCEPTED, answer(MessageId(app.session.0), &app.padding))
}

fn answer(id: MessageId, padding: &str) -> String {
    format!(r#"{{"success":true,"data":{{"id":"{id}","padding":"{padding}"}}}}"#)
}

/// The columns of `messages`, and its primary key alone.
async fn sqlite(folder: &Path) -> Result<SqliteConnection> {
    const TABLE: &str = "CREATE TABLE messages (
        seq INTEGER PRIMARY KEY, id BLOB NOT NULL, user_id INTEGER NOT NULL, session_id BLOB NOT NULL,
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, quota_day INTEGER NOT NULL,
        due_at INTEGER, send_at INTEGER, sent_at INTEGER, delivered_at INTEGER, read_at INTEGER, claimed_by BLOB,
        claim INTEGER, reply_to BLOB, replayed_from BLOB, attempts INTEGER NOT NULL DEFAULT 0,
        unknown_attempts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0, status INTEGER NOT NULL,
        type INTEGER NOT NULL, hold INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL, refunded INTEGER NOT NULL DEFAULT 0,
        recipient TEXT NOT NULL, whatsapp_id TEXT NOT NULL, reference TEXT, request_id TEXT NOT NULL,
        content TEXT NOT NULL, error TEXT) STRICT";
    let mut connection = open_sqlite(&folder.join("floor.db")).await?;
    sqlx::query(TABLE).execute(&mut connection).await?;
    Ok(connection)
}

/// The columns of `messages` and its primary key alone, in a schema of its own beside the service's.
async fn postgres(url: &str) -> Result<PgConnection> {
    const TABLE: &str = "CREATE SCHEMA IF NOT EXISTS floor;
        DROP TABLE IF EXISTS floor.messages;
        CREATE TABLE floor.messages (LIKE public.messages INCLUDING DEFAULTS);
        ALTER TABLE floor.messages ADD PRIMARY KEY (id)";
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(TABLE).execute(&mut connection).await?;
    Ok(connection)
}

async fn commit_sqlite(mut connection: SqliteConnection, gather: Gather<Row, ()>, session: SessionId) {
    const INSERT: &str = "
        INSERT INTO messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, status, type, open,
            recipient, whatsapp_id, request_id, content)
        SELECT unhex(replace(value->>'id', '-', '')), 1, $2, $3, $4, $3, $5, 1, 0, 1,
            value->>'recipient', value->>'whatsapp_id', value->>'request_id', value->>'content'
        FROM json_each($1)";
    while let Some(batch) = gather.next().await {
        let (rows, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(sanasr_shared::group_commit::Pending::into_parts).unzip();
        let now = Time::now();
        let written = sqlx::query(INSERT)
            .bind(serde_json::to_string(&rows).unwrap_or_default())
            .bind(session)
            .bind(now)
            .bind(now.plus(DEFAULT_LIFE))
            .bind(now.day())
            .execute(&mut connection)
            .await;
        let result = written.map(|_| ()).map_err(|e| StoreError::Internal(e.to_string()));
        for answer in answers {
            answer.send(result.clone());
        }
    }
}

async fn commit_postgres(mut connection: PgConnection, gather: Gather<Row, ()>, session: SessionId) {
    const INSERT: &str = "
        INSERT INTO floor.messages (id, user_id, session_id, created_at, expires_at, updated_at, quota_day, status, type,
            open, recipient, whatsapp_id, request_id, content)
        SELECT id, 1, $6, $7, $8, $7, $9, 1, 0, true, recipient, whatsapp_id, request_id, content
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
            AS row(id, recipient, whatsapp_id, request_id, content)";
    while let Some(batch) = gather.next().await {
        let (rows, answers): (Vec<Row>, Vec<_>) =
            batch.into_iter().map(sanasr_shared::group_commit::Pending::into_parts).unzip();
        let now = Time::now();
        let texts = |of: fn(&Row) -> &str| rows.iter().map(of).collect::<Vec<_>>();
        let written = sqlx::query(INSERT)
            .bind(rows.iter().map(|row| row.id.0).collect::<Vec<_>>())
            .bind(texts(|row| &row.recipient))
            .bind(texts(|row| &row.whatsapp_id))
            .bind(texts(|row| &row.request_id))
            .bind(texts(|row| &row.content))
            .bind(session)
            .bind(now)
            .bind(now.plus(DEFAULT_LIFE))
            .bind(now.day())
            .execute(&mut connection)
            .await;
        let result = written.map(|_| ()).map_err(|e| StoreError::Internal(e.to_string()));
        for answer in answers {
            answer.send(result.clone());
        }
    }
}

/// Publishes jobs to a queue as ours are, many confirms in flight.
async fn publisher(url: &str, session: SessionId) -> Result<mpsc::Sender<MessageId>> {
    let connection =
        lapin::Connection::connect(url, ConnectionProperties::default()).await.context("connect AMQP_URL")?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-mode".into(), AMQPValue::LongString("lazy".into()));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    let (sender, jobs) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        if let Err(error) = publish(&channel, jobs, session).await {
            eprintln!("publish: {error}");
        }
        drop(connection);
    });
    Ok(sender)
}

async fn publish(channel: &Channel, mut jobs: mpsc::Receiver<MessageId>, session: SessionId) -> lapin::Result<()> {
    let life = DEFAULT_LIFE.as_millis().to_string();
    let mut confirms = FuturesUnordered::new();
    while let Some(id) = jobs.recv().await {
        let body = format!(r#"{{"v":1,"session":"{session}","message":"{id}","request_id":"{}"}}"#, Uuid::now_v7());
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(id.to_string().into())
            .with_expiration(life.clone().into());
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        confirms.push(channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties).await?);
        if confirms.len() >= CONFIRMS_MAX {
            confirms.next().await.transpose()?;
        }
    }
    Ok(())
}
