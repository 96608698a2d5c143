//! Sessions as their users see them: those marked for deletion are absent.

use async_trait::async_trait;
use uuid::Uuid;

use super::rows::SessionRow;
use super::{Backend, Connection, audit, dialect, event, failed};
use crate::ids::{SessionId, UserId};
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::store::{Bounded, Moved, Page, Result, Scope, SessionCommand, Sessions, StoreError};
use crate::session::{BridgeKind, Pace, Session, SessionStatus};
use crate::store::taken;
use crate::time::{DAY_MS, Time};

#[async_trait]
impl Sessions for Backend {
    async fn create_session(
        &self,
        user: UserId,
        name: &str,
        bridge: BridgeKind,
        max: u32,
        by: Actor,
    ) -> Result<Session> {
        let name = name.to_owned();
        change!(self, |c| create_one_of(c, user, &name, bridge, max, by))
    }

    async fn session(&self, user: UserId, name: &str) -> Result<Option<Session>> {
        let name = name.to_owned();
        lookup!(self, |c| session(c, user, &name))
    }

    async fn session_name(&self, scope: Scope, id: SessionId) -> Result<Option<(UserId, String)>> {
        read!(self, |c| name(c, scope, id))
    }

    async fn list_sessions(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<Session>> {
        read!(self, |c| page(c, scope, after, limit))
    }

    async fn set_pace(&self, user: UserId, name: &str, pace: &Pace, by: Actor) -> Result<Option<Session>> {
        let (name, pace) = (name.to_owned(), *pace);
        change!(self, |c| set_pace(c, user, &name, &pace, by))
    }

    async fn set_proxy(
        &self,
        user: UserId,
        name: &str,
        proxy: Option<(Vec<u8>, String)>,
        by: Actor,
    ) -> Result<Option<Session>> {
        let name = name.to_owned();
        change!(self, |c| set_proxy(c, user, &name, proxy, by))
    }

    async fn command(&self, user: UserId, name: &str, command: SessionCommand, by: Actor) -> Result<Option<Session>> {
        let name = name.to_owned();
        change!(self, |c| super::sessions::command(c, user, &name, command, by))
    }

    async fn request_pair_code(&self, user: UserId, name: &str, phone: &str, by: Actor) -> Result<Moved<Session>> {
        let (name, phone) = (name.to_owned(), phone.to_owned());
        change!(self, |c| request_pair_code(c, user, &name, &phone, by))
    }

    async fn pair_code(&self, session: SessionId) -> Result<Option<(String, Time)>> {
        read!(self, |c| pair_code(c, session))
    }

    async fn delete_session(&self, user: UserId, name: &str, by: Actor) -> Result<bool> {
        let name = name.to_owned();
        change!(self, |c| delete(c, user, &name, by))
    }
}

/// A QR code is shown while it can be scanned.
macro_rules! session_columns {
    () => {
        concat!(
            "id, name, user_id, bridge, status, paused, blocked_reason, blocked_until, phone_number, CASE WHEN qr_expires_at > ",
            now_ms!(),
            " THEN qr_code END AS qr_code, CASE WHEN qr_expires_at > ",
            now_ms!(),
            " THEN qr_expires_at END AS qr_expires_at, connected_at, last_active_at, queued, per_minute, burst, jitter_ms,
            first_contacts_per_minute, typing, warm_up, proxy_shown, created_at, updated_at"
        )
    };
}

/// Makes a session unless its user has as many as may be. Within a transaction: those of one user come one after the other.
pub(crate) async fn create_one_of(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    bridge: BridgeKind,
    max: u32,
    by: Actor,
) -> Result<Session> {
    sqlx::query(concat!("SELECT id FROM users WHERE id = $1", for_update!()))
        .bind(user)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    let (count,): (i64,) =
        sqlx::query_as("SELECT count(*) AS sessions FROM sessions WHERE user_id = $1 AND drained_at IS NULL")
            .bind(user)
            .fetch_one(&mut *conn)
            .await
            .map_err(failed)?;
    if count >= i64::from(max) {
        return Err(StoreError::Full { what: Bounded::Sessions, limit: u64::from(max) });
    }
    let session = create(conn, user, name, bridge).await?;
    audit::note(conn, on_behalf(by, &session, Action::SessionCreated)).await?;
    Ok(session)
}

/// The audit trail's line of what an admin does with another user's session.
fn on_behalf(by: Actor, session: &Session, action: Action) -> Option<AuditEntry> {
    AuditEntry::on_behalf(by, session.user_id, action, Target::Session(session.id))
}

/// Makes a session.
pub(crate) async fn create(conn: &mut Connection, user: UserId, name: &str, bridge: BridgeKind) -> Result<Session> {
    let pace = Pace::of(bridge);
    let row: SessionRow = sqlx::query_as(concat!(
        "INSERT INTO sessions (id, user_id, name, bridge, per_minute, burst, jitter_ms, first_contacts_per_minute, typing,
            warm_up, created_at, updated_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, t.now, t.now FROM (SELECT ",
        now_ms!(),
        " AS now) t RETURNING ",
        session_columns!()
    ))
    .bind(SessionId::generate())
    .bind(user)
    .bind(name)
    .bind(bridge as i16)
    .bind(pace.per_minute.map(i64::from))
    .bind(pace.burst.map(i64::from))
    .bind(i64::from(pace.jitter_ms))
    .bind(pace.first_contacts_per_minute.map(i64::from))
    .bind(pace.typing)
    .bind(pace.warm_up)
    .fetch_one(conn)
    .await
    .map_err(|e| if taken(&e) { StoreError::Taken("name") } else { failed(e) })?;
    row.try_into()
}

/// One session of a user.
pub(crate) async fn session(conn: &mut Connection, user: UserId, name: &str) -> Result<Option<Session>> {
    let row: Option<SessionRow> = sqlx::query_as(concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions WHERE user_id = $1 AND name = $2 AND deleting_at IS NULL"
    ))
    .bind(user)
    .bind(name)
    .fetch_optional(conn)
    .await
    .map_err(failed)?;
    row.map(Session::try_from).transpose()
}

/// Several sessions, in no particular order.
pub(crate) async fn by_ids(conn: &mut Connection, ids: &[SessionId]) -> Result<Vec<Session>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<SessionRow> = sqlx::query_as(concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions WHERE id ",
        among!("$1"),
        " AND deleting_at IS NULL"
    ))
    .bind(dialect::ids(ids.iter().map(|id| id.0)))
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    rows.into_iter().map(Session::try_from).collect()
}

/// Whose a session is, and its name.
pub(crate) async fn name(conn: &mut Connection, scope: Scope, id: SessionId) -> Result<Option<(UserId, String)>> {
    sqlx::query_as(
        "SELECT user_id, name FROM sessions WHERE id = $1 AND ($2 IS NULL OR user_id = $2) AND deleting_at IS NULL",
    )
    .bind(id)
    .bind(scope.user())
    .fetch_optional(conn)
    .await
    .map_err(failed)
}

macro_rules! session_page {
    ($whose:expr) => {
        concat!(
            "SELECT ",
            session_columns!(),
            " FROM sessions WHERE ($1 IS NULL OR id < $1) AND deleting_at IS NULL AND ",
            $whose,
            " ORDER BY id DESC LIMIT $3"
        )
    };
}

/// A page of sessions, newest first.
pub(crate) async fn page(
    conn: &mut Connection,
    scope: Scope,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Page<Session>> {
    let text = match scope {
        Scope::User(_) => session_page!("user_id = $2"),
        Scope::All => session_page!("$2 IS NULL"),
    };
    let limit = limit.max(1);
    let mut rows: Vec<SessionRow> = sqlx::query_as(text)
        .bind(after)
        .bind(scope.user())
        .bind(i64::from(limit) + 1)
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > size;
    rows.truncate(size);
    let items = rows.into_iter().map(Session::try_from).collect::<Result<Vec<_>>>()?;
    let next = if more { items.last().map(|s| s.id.0) } else { None };
    Ok(Page { items, next })
}

/// Sets a session's pace.
pub(crate) async fn set_pace(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    pace: &Pace,
    by: Actor,
) -> Result<Option<Session>> {
    let row: Option<SessionRow> = sqlx::query_as(concat!(
        "UPDATE sessions SET per_minute = $3, burst = $4, jitter_ms = $5, first_contacts_per_minute = $6, typing = $7,
            warm_up = $8, updated_at = ",
        now_ms!(),
        " WHERE user_id = $1 AND name = $2 AND deleting_at IS NULL RETURNING ",
        session_columns!()
    ))
    .bind(user)
    .bind(name)
    .bind(pace.per_minute.map(i64::from))
    .bind(pace.burst.map(i64::from))
    .bind(i64::from(pace.jitter_ms))
    .bind(pace.first_contacts_per_minute.map(i64::from))
    .bind(pace.typing)
    .bind(pace.warm_up)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let session = row.map(Session::try_from).transpose()?;
    if let Some(session) = &session {
        let entry = on_behalf(by, session, Action::SessionChanged);
        audit::note(conn, entry.map(|entry| entry.with("changed", vec!["pace"]))).await?;
    }
    Ok(session)
}

/// Sets a session's proxy: encrypted, and as it is shown.
pub(crate) async fn set_proxy(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    proxy: Option<(Vec<u8>, String)>,
    by: Actor,
) -> Result<Option<Session>> {
    let set = proxy.is_some();
    let (sealed, shown) = proxy.unzip();
    let row: Option<SessionRow> = sqlx::query_as(concat!(
        "UPDATE sessions SET proxy = $3, proxy_shown = $4, updated_at = ",
        now_ms!(),
        " WHERE user_id = $1 AND name = $2 AND deleting_at IS NULL RETURNING ",
        session_columns!()
    ))
    .bind(user)
    .bind(name)
    .bind(sealed)
    .bind(shown)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let session = row.map(Session::try_from).transpose()?;
    if let Some(session) = &session {
        let entry = AuditEntry::new(by, Action::ProxyChanged, Some(Target::Session(session.id)));
        audit::note(conn, entry.with("user_id", user.0).with("set", set)).await?;
    }
    Ok(session)
}

/// What a command may change.
#[derive(Clone, Copy, PartialEq, sqlx::FromRow)]
struct State {
    bridge: i16,
    status: i16,
    wanted: bool,
    logout: bool,
    paused: bool,
    paired: bool,
}

impl State {
    /// What becomes of it. What needs the bridge is left to the owner, if there is one.
    fn after(self, command: SessionCommand, owned: bool) -> Self {
        use SessionStatus::{Banned, Connecting, Disconnected, LoggedOut};
        let ended = self.status == LoggedOut as i16 || self.status == Banned as i16;
        match command {
            SessionCommand::Connect => {
                let idle = ended || self.status == Disconnected as i16;
                Self { status: if idle { Connecting as i16 } else { self.status }, wanted: true, logout: false, ..self }
            }
            SessionCommand::Disconnect => {
                Self { status: if owned || ended { self.status } else { Disconnected as i16 }, wanted: false, ..self }
            }
            // A linked phone has it in its list of devices: only a worker can take it out there.
            SessionCommand::Logout if owned || self.paired && self.bridge == BridgeKind::Whatsapp as i16 => {
                Self { wanted: false, logout: true, ..self }
            }
            SessionCommand::Logout => {
                Self { status: LoggedOut as i16, wanted: false, logout: false, paired: false, ..self }
            }
            SessionCommand::Pause => Self { paused: true, ..self },
            SessionCommand::Resume => Self { paused: false, ..self },
        }
    }
}

/// Writes down what a user wants. Within a transaction.
pub(crate) async fn command(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    command: SessionCommand,
    by: Actor,
) -> Result<Option<Session>> {
    let session = obey(conn, user, name, command).await?;
    if let Some(session) = &session {
        let entry = on_behalf(by, session, Action::SessionCommanded);
        audit::note(conn, entry.map(|entry| entry.with("command", command.as_str()))).await?;
    }
    Ok(session)
}

async fn obey(conn: &mut Connection, user: UserId, name: &str, command: SessionCommand) -> Result<Option<Session>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        id: SessionId,
        owned: bool,
        #[sqlx(flatten)]
        state: State,
    }
    let row: Option<Row> = sqlx::query_as(concat!(
        "SELECT id, owner IS NOT NULL AS owned, bridge, status, wanted, logout, paused, paired
        FROM sessions WHERE user_id = $1 AND name = $2 AND deleting_at IS NULL",
        for_update!()
    ))
    .bind(user)
    .bind(name)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some(Row { id, owned, state: old }) = row else { return Ok(None) };
    let new = old.after(command, owned);
    if new == old {
        return session(conn, user, name).await;
    }
    let row: SessionRow = sqlx::query_as(concat!(
        "UPDATE sessions SET status = $2, wanted = $3, logout = $4, paused = $5, paired = $6,
            phone_number = CASE WHEN $6 OR NOT paired THEN phone_number END,
            paired_at = CASE WHEN $6 THEN paired_at END,
            qr_code = CASE WHEN status = $2 THEN qr_code END,
            qr_expires_at = CASE WHEN status = $2 THEN qr_expires_at END,
            pair_phone = CASE WHEN $3 THEN pair_phone END, pair_code = CASE WHEN $3 THEN pair_code END,
            blocked_reason = CASE WHEN status = $2 THEN blocked_reason END,
            blocked_until = CASE WHEN status = $2 THEN blocked_until END,
            connects = connects + CASE WHEN $7 THEN 1 ELSE 0 END, updated_at = ",
        now_ms!(),
        " WHERE id = $1 RETURNING ",
        session_columns!()
    ))
    .bind(id)
    .bind(new.status)
    .bind(new.wanted)
    .bind(new.logout)
    .bind(new.paused)
    .bind(new.paired)
    .bind(command == SessionCommand::Connect)
    .fetch_one(&mut *conn)
    .await
    .map_err(failed)?;
    if old.paired && !new.paired {
        super::devices::wipe(conn, id).await?;
    }
    if new.status != old.status {
        event(conn, user, id, None, new.status).await?;
    }
    Ok(Some(row.try_into()?))
}

/// Wants a session paired by a code that is typed on the phone with this number. Within a transaction.
pub(crate) async fn request_pair_code(
    conn: &mut Connection,
    user: UserId,
    name: &str,
    phone: &str,
    by: Actor,
) -> Result<Moved<Session>> {
    let Some(session) = obey(conn, user, name, SessionCommand::Connect).await? else { return Ok(Moved::Absent) };
    // The same phone again is answered with the code that waits, if one does.
    let done = sqlx::query(concat!(
        "UPDATE sessions SET pair_phone = $2, pair_code = CASE WHEN pair_phone = $2 THEN pair_code END, updated_at = ",
        now_ms!(),
        " WHERE id = $1 AND NOT paired"
    ))
    .bind(session.id)
    .bind(phone)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    let command = if done.rows_affected() > 0 { "pair_code" } else { SessionCommand::Connect.as_str() };
    let entry = on_behalf(by, &session, Action::SessionCommanded);
    audit::note(conn, entry.map(|entry| entry.with("command", command))).await?;
    Ok(if done.rows_affected() > 0 { Moved::Done(session) } else { Moved::Refused(session) })
}

/// The code that waits to be typed, and its end.
pub(crate) async fn pair_code(conn: &mut Connection, session: SessionId) -> Result<Option<(String, Time)>> {
    sqlx::query_as(concat!(
        "SELECT pair_code, pair_code_expires_at FROM sessions
        WHERE id = $1 AND pair_code IS NOT NULL AND pair_code_expires_at > ",
        now_ms!()
    ))
    .bind(session)
    .fetch_optional(conn)
    .await
    .map_err(failed)
}

/// Marks a session for deletion.
pub(crate) async fn delete(conn: &mut Connection, user: UserId, name: &str, by: Actor) -> Result<bool> {
    let deleted: Option<(SessionId,)> = sqlx::query_as(concat!(
        "UPDATE sessions SET deleting_at = t.now, updated_at = t.now, wanted = false
        FROM (SELECT ",
        now_ms!(),
        " AS now) t WHERE user_id = $1 AND name = $2 AND deleting_at IS NULL RETURNING id"
    ))
    .bind(user)
    .bind(name)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some((id,)) = deleted else { return Ok(false) };
    audit::note(conn, AuditEntry::on_behalf(by, user, Action::SessionDeleted, Target::Session(id))).await?;
    Ok(true)
}

/// Removes sessions that were drained at least a day before `bound` and of which no message is left below `first_id`, the
/// lowest id of that time: theirs are all older, however far clocks differ. So the look is over the few old messages that
/// their users still have.
pub(crate) async fn remove_drained(conn: &mut Connection, bound: Time, first_id: Uuid) -> Result<()> {
    sqlx::query(
        "DELETE FROM sessions WHERE drained_at IS NOT NULL AND drained_at <= $1 AND NOT EXISTS (SELECT 1 FROM messages m
            WHERE m.user_id = sessions.user_id AND m.id < $2 AND m.session_id = sessions.id)",
    )
    .bind(bound.0.saturating_sub(DAY_MS))
    .bind(first_id)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}
