//! The one port: WebSockets of clients, the media host, the client's version, and a control for other processes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::connection;
use crate::media::PATH;
use crate::state;
use crate::{code, pairing};

type Shared = State<Arc<state::State>>;

/// Serves until the server is stopped.
pub(crate) async fn serve(listener: TcpListener, state: Arc<state::State>) {
    let router = Router::new()
        .route("/ws/chat", get(chat))
        .route("/sw.js", get(version))
        .route("/mms/{kind}/{token}", post(upload))
        .route("/v/{token}", get(download))
        .route("/control/scan", post(scan))
        .route("/control/enter-code", post(enter_code))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(&state));
    let listener = listener.tap_io(|stream| {
        // A stanza must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
    });
    tokio::select! {
        () = state.stopped.cancelled() => {}
        _ = axum::serve(listener, router) => {}
    }
}

async fn chat(State(state): Shared, upgrade: WebSocketUpgrade) -> Response {
    // Thousands of clients wait here with nothing to say: a small buffer each is enough.
    upgrade.read_buffer_size(2048).write_buffer_size(0).on_upgrade(|socket| connection::serve(state, socket))
}

async fn version() -> &'static str {
    "self.__version={\"client_revision\":1030000000,\"server_revision\":1030000000};"
}

#[derive(Deserialize)]
struct Upload {
    auth: String,
    resume: Option<u8>,
}

async fn upload(State(state): Shared, path: Path<(String, String)>, query: Query<Upload>, body: Bytes) -> Response {
    let (Path((_, token)), Query(query)) = (path, query);
    let path = format!("{PATH}{token}");
    let place = json!({ "url": format!("http://{}{path}", state.address), "direct_path": path });
    if query.resume.is_some() {
        // Whether the file is here already.
        return match (state.blobs.check(&query.auth), state.blobs.get(&token)) {
            (Err(status), _) => refused(status),
            (Ok(()), None) => Json(json!({ "resume": "0" })).into_response(),
            (Ok(()), Some(_)) => {
                let mut answer = place;
                answer["resume"] = "complete".into();
                Json(answer).into_response()
            }
        };
    }
    match state.blobs.store(&token, &query.auth, body) {
        Ok(()) => Json(place).into_response(),
        Err(status) => refused(status),
    }
}

fn refused(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

async fn download(State(state): Shared, Path(token): Path<String>) -> Response {
    state.blobs.get(&token).map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

#[derive(Deserialize)]
struct Scan {
    qr: String,
    phone_number: String,
}

async fn scan(State(state): Shared, Json(request): Json<Scan>) -> Response {
    control(pairing::scan(&state, &request.qr, &request.phone_number).await)
}

#[derive(Deserialize)]
struct EnterCode {
    phone_number: String,
    code: String,
}

async fn enter_code(State(state): Shared, Json(request): Json<EnterCode>) -> Response {
    control(code::enter(&state, &request.phone_number, &request.code).await)
}

fn control(paired: Result<Arc<crate::device::Device>, String>) -> Response {
    match paired {
        Ok(device) => Json(json!({ "phone_number": device.number, "device": device.id })).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(json!({ "error": error }))).into_response(),
    }
}
