//! Accepting: quota, messages and keys of many requests at once.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::dialect;
use super::moves::{Hex, json};
use super::script::{Answers, Script};
use super::transaction::Unit;
use crate::ids::{MediaId, MessageId, SessionId, UserId};
use crate::message::{NewMessage, Status};
use crate::ports::audit::AuditEntry;
use crate::ports::files::FILE_KEPT;
use crate::ports::store::{AcceptOutcome, AcceptRequest, AcceptedJob, IdempotencyKey, Result, StoreError};
use crate::store::audit_json;
use crate::time::{Day, Time};
use crate::usage::Quota;

/// One message of a request.
#[derive(Clone, Copy)]
pub(super) struct Item<'r> {
    pub(super) request: &'r AcceptRequest,
    pub(super) position: u32,
    pub(super) message: &'r NewMessage,
}

impl Item<'_> {
    /// Under which item its key keeps it.
    fn key_item(&self, key: &IdempotencyKey) -> i64 {
        if key.batch { i64::from(self.position) + 1 } else { 0 }
    }

    /// The file that it sends, of those that are kept.
    fn media(&self) -> Option<MediaId> {
        self.message.content.media.as_ref().and_then(|media| media.id)
    }
}

/// What became of an item, and its job if it is newly accepted and not scheduled.
pub(super) struct Stored {
    pub(super) outcome: AcceptOutcome,
    pub(super) job: Option<AcceptedJob>,
}

/// Stores items. Two requests with the same key don't come together.
impl Unit for Item<'_> {
    type Answer = Stored;
    const METRIC: &'static str = "sanasr_accept_batch_size";

    fn read(items: &[Self], now: Time) -> Result<Script> {
        Keys::look(Known::look(Script::default(), now.day(), items)?, items)
    }

    fn write(items: &[Self], now: Time, mut answers: Answers) -> Result<(Script, Vec<Result<Stored>>)> {
        let mut known = Known::read(&mut answers)?;
        let keys = Keys::read(&mut answers)?;
        let decided: Vec<Decision> = items.iter().map(|item| known.decide(item, &keys, now)).collect();
        let granted: Vec<Item<'_>> = items
            .iter()
            .zip(&decided)
            .filter_map(|(item, decision)| matches!(decision, Decision::Accept).then_some(*item))
            .collect();
        let mut script = Script::default();
        if !granted.is_empty() {
            script = take_quota(script, now.day(), &known)?;
            script = insert_messages(script, now, &granted)?;
            script = keep_files(script, now, &granted)?;
            script = insert_keys(script, now, &granted, &keys)?;
            script = insert_lines(script, &granted)?;
        }
        let answers = items.iter().zip(decided).map(|(item, decision)| {
            let new = matches!(decision, Decision::Accept);
            let outcome = match decision {
                Decision::Accept => AcceptOutcome::Accepted { created_at: now },
                Decision::OverQuota => AcceptOutcome::QuotaExceeded(known.quota(item.request.user, now.day())),
                Decision::Other(outcome) => outcome,
                Decision::Taken => {
                    return Err(StoreError::Internal("another request's message has this id".to_owned()));
                }
                Decision::Unfit => return Err(StoreError::Invalid("text must not contain NUL".to_owned())),
            };
            let due = item.message.initial_status() == Status::Accepted;
            Ok(Stored { job: (new && due).then(|| job(item, now)), outcome })
        });
        Ok((script, answers.collect()))
    }
}

fn job(item: &Item<'_>, now: Time) -> AcceptedJob {
    AcceptedJob {
        message: item.message.id,
        session: item.message.session,
        life: item.message.expires_at(now).since(now),
        request_id: item.message.request_id.clone(),
    }
}

enum Decision {
    Accept,
    OverQuota,
    /// A defect: a message of another request has its id.
    Taken,
    /// PostgreSQL has no form for NUL in text, and SQLite's JSON functions end at it.
    Unfit,
    Other(AcceptOutcome),
}

/// An active user's quota.
struct Account {
    limit: Option<i64>,
    used: i64,
    accepted: i64,
    granted: i64,
}

impl Account {
    fn quota(&self, today: Day) -> Quota {
        Quota::new(self.limit, self.used + self.granted, self.accepted + self.granted, today)
    }
}

/// A message that is stored already.
struct Found {
    user: UserId,
    session: SessionId,
    request_id: String,
    created_at: Time,
}

/// What the database knows of the items' messages, sessions, files and users.
struct Known {
    messages: HashMap<MessageId, Found>,
    sessions: HashMap<SessionId, UserId>,
    files: HashMap<MediaId, UserId>,
    users: HashMap<UserId, Account>,
}

pub(super) const LOOK: &str = "SELECT 0 AS what, m.id AS id, m.user_id AS user, m.created_at AS a, 0 AS b, NULL AS c,
        m.session_id AS session, m.request_id AS request
        FROM messages m WHERE m.id IN (SELECT unhex(value) FROM json_each($1))
    UNION ALL SELECT 1, s.id, s.user_id, 0, 0, NULL, NULL, NULL
        FROM sessions s WHERE s.id IN (SELECT unhex(value) FROM json_each($2)) AND s.deleting_at IS NULL
    UNION ALL SELECT 2, NULL, u.id, COALESCE(q.accepted, 0), COALESCE(q.used, 0), u.max_messages_per_day, NULL, NULL
        FROM users u LEFT JOIN quotas q ON q.user_id = u.id AND q.day = $4
        WHERE u.id IN (SELECT value FROM json_each($3)) AND u.is_active
    UNION ALL SELECT 3, f.id, f.user_id, 0, 0, NULL, NULL, NULL
        FROM media f WHERE f.id IN (SELECT unhex(value) FROM json_each($5)) AND NOT f.gone";

/// A row of [`LOOK`].
type Row = (i64, Option<Uuid>, i64, i64, i64, Option<i64>, Option<Uuid>, Option<String>);

impl Known {
    fn look(script: Script, today: Day, items: &[Item<'_>]) -> Result<Script> {
        let sessions: HashSet<Uuid> = items.iter().map(|i| i.message.session.0).collect();
        let users: HashSet<i64> = items.iter().map(|i| i.request.user.0).collect();
        let users: Vec<i64> = users.into_iter().collect();
        Ok(script
            .then(LOOK)
            .bind(dialect::ids(items.iter().map(|i| i.message.id.0)))
            .bind(dialect::ids(sessions.into_iter()))
            .bind(json(&users)?)
            .bind(today)
            .bind(dialect::ids(
                items.iter().filter_map(|i| i.media()).collect::<HashSet<_>>().into_iter().map(|id| id.0),
            )))
    }

    fn read(answers: &mut Answers) -> Result<Self> {
        let rows: Vec<Row> = answers.read()?;
        let mut known =
            Self { messages: HashMap::new(), sessions: HashMap::new(), files: HashMap::new(), users: HashMap::new() };
        for (what, id, user, a, b, c, session, request) in rows {
            match (what, id) {
                (0, Some(id)) => {
                    let session = SessionId(session.unwrap_or_default());
                    let request_id = request.unwrap_or_default();
                    let found = Found { user: UserId(user), session, request_id, created_at: Time(a) };
                    known.messages.insert(MessageId(id), found);
                }
                (3, Some(id)) => {
                    known.files.insert(MediaId(id), UserId(user));
                }
                (1, Some(id)) => {
                    known.sessions.insert(SessionId(id), UserId(user));
                }
                _ => {
                    known.users.insert(UserId(user), Account { limit: c, used: b, accepted: a, granted: 0 });
                }
            }
        }
        Ok(known)
    }

    /// Decides on the next item; a unit that it takes is counted.
    fn decide(&mut self, item: &Item<'_>, keys: &Keys, now: Time) -> Decision {
        let user = item.request.user;
        if let Some(found) = self.messages.get(&item.message.id) {
            let own = found.user == user
                && found.session == item.message.session
                && found.request_id == item.message.request_id;
            return if own {
                Decision::Other(AcceptOutcome::Accepted { created_at: found.created_at })
            } else {
                Decision::Taken
            };
        }
        if let Some(key) = &item.request.key
            && let Some(outcome) = keys.outcome(user, key, item.key_item(key))
        {
            return Decision::Other(outcome);
        }
        let Some(account) = self.users.get_mut(&user) else {
            return Decision::Other(AcceptOutcome::UserInactive);
        };
        if self.sessions.get(&item.message.session) != Some(&user) {
            return Decision::Other(AcceptOutcome::SessionGone);
        }
        if has_nul(item) {
            return Decision::Unfit;
        }
        if item.media().is_some_and(|id| self.files.get(&id) != Some(&user)) {
            return Decision::Other(AcceptOutcome::FileGone);
        }
        if account.quota(now.day()).remaining == Some(0) {
            return Decision::OverQuota;
        }
        account.granted += 1;
        Decision::Accept
    }

    fn quota(&self, user: UserId, today: Day) -> Quota {
        self.users.get(&user).map_or_else(|| Quota::new(None, 0, 0, today), |account| account.quota(today))
    }
}

fn has_nul(item: &Item<'_>) -> bool {
    let message = item.message;
    let key = item.request.key.as_ref().map(|key| key.key.as_str());
    let texts = [message.recipient.as_str(), &message.whatsapp_id, &message.request_id];
    texts.into_iter().chain(message.reference.as_deref()).chain(key).any(|text| text.contains('\0'))
}

/// What is kept under the requests' keys.
#[derive(Default)]
struct Keys(HashMap<(UserId, String), Kept>);

#[derive(Default)]
struct Kept {
    hash: Vec<u8>,
    items: HashMap<i64, Option<MessageId>>,
}

pub(super) const LOOK_KEYS: &str = "SELECT k.user_id, k.key, k.item, k.hash, k.message_id FROM json_each($1) i
    CROSS JOIN idempotency_keys k ON k.user_id = i.value->>0 AND k.key = i.value->>1 ORDER BY k.item";

impl Keys {
    /// Only if any is asked for.
    fn look(script: Script, items: &[Item<'_>]) -> Result<Script> {
        let asked: HashSet<(i64, &str)> = items
            .iter()
            .filter_map(|i| i.request.key.as_ref().map(|key| (i.request.user.0, key.key.as_str())))
            .collect();
        if asked.is_empty() {
            return Ok(script);
        }
        let asked: Vec<_> = asked.into_iter().collect();
        Ok(script.then(LOOK_KEYS).bind(json(&asked)?))
    }

    fn read(answers: &mut Answers) -> Result<Self> {
        let rows: Vec<(UserId, String, i64, Vec<u8>, Option<MessageId>)> = answers.read()?;
        let mut keys = Self::default();
        for (user, key, item, hash, message) in rows {
            let kept = keys.0.entry((user, key)).or_insert_with(|| Kept { hash, items: HashMap::new() });
            kept.items.insert(item, message);
        }
        Ok(keys)
    }

    fn kept(&self, user: UserId, key: &IdempotencyKey) -> Option<&Kept> {
        self.0.get(&(user, key.key.clone()))
    }

    /// What the key says of an item; `None` if it may be accepted.
    fn outcome(&self, user: UserId, key: &IdempotencyKey, item: i64) -> Option<AcceptOutcome> {
        let kept = self.kept(user, key)?;
        let was_batch = kept.items.get(&0).is_none_or(Option::is_none);
        if kept.hash != key.hash || was_batch != key.batch {
            return Some(AcceptOutcome::KeyReused);
        }
        kept.items.get(&item).copied().flatten().map(AcceptOutcome::Replayed)
    }
}

const TAKE_QUOTA: &str = "INSERT INTO quotas (user_id, day, used, accepted)
    SELECT value->>0, $2, value->>1, value->>1 FROM json_each($1) WHERE true
    ON CONFLICT (user_id, day) DO UPDATE SET used = used + excluded.used, accepted = accepted + excluded.accepted";

fn take_quota(script: Script, today: Day, known: &Known) -> Result<Script> {
    let granted: Vec<(i64, i64)> =
        known.users.iter().filter(|(_, a)| a.granted > 0).map(|(user, a)| (user.0, a.granted)).collect();
    Ok(script.then(TAKE_QUOTA).bind(json(&granted)?).bind(today))
}

const INSERT: &str =
    "INSERT INTO messages (id, user_id, session_id, created_at, updated_at, quota_day, expires_at, due_at,
        send_at, status, open, type, recipient, whatsapp_id, reference, request_id, content, reply_to, replayed_from, media_id)
    SELECT unhex(value->>0), value->>1, unhex(value->>2), $2, $2, $3, value->>3, value->>4, value->>4,
        (value->>4) IS NULL, (value->>4) IS NULL, value->>5, value->>6, value->>7, value->>8, value->>9, value->>10,
        unhex(value->>11), unhex(value->>12), unhex(value->>13) FROM json_each($1)";

/// Inserted in the items' order, which `seq` then has.
fn insert_messages(script: Script, now: Time, items: &[Item<'_>]) -> Result<Script> {
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let Item { request, message, .. } = item;
        let content = serde_json::to_string(&message.content).map_err(|e| StoreError::Invalid(e.to_string()))?;
        rows.push((
            Hex(message.id.0),
            request.user.0,
            Hex(message.session.0),
            message.expires_at(now).0,
            message.send_at.map(|at| at.0),
            message.kind as i16,
            message.recipient.as_str(),
            &message.whatsapp_id,
            message.reference.as_deref(),
            &message.request_id,
            content,
            message.reply_to.map(|id| Hex(id.0)),
            message.replayed_from.map(|id| Hex(id.0)),
            item.media().map(|id| Hex(id.0)),
        ));
    }
    let script = script.then(INSERT).bind(json(&rows)?).bind(now).bind(now.day());
    Ok(script.expect_rows("messages accepted", items.len()))
}

const KEEP_FILES: &str = "UPDATE media SET keep_until = max(keep_until, i.until)
    FROM (SELECT unhex(value->>0) AS id, value->>1 AS until FROM json_each($1)) i WHERE media.id = i.id";

/// Has the files kept that the messages send: until each has ended, and a day longer.
fn keep_files(script: Script, now: Time, items: &[Item<'_>]) -> Result<Script> {
    let mut until: HashMap<MediaId, Time> = HashMap::new();
    for item in items {
        if let Some(id) = item.media() {
            let end = item.message.expires_at(now).plus(FILE_KEPT);
            until.entry(id).and_modify(|until| *until = end.max(*until)).or_insert(end);
        }
    }
    if until.is_empty() {
        return Ok(script);
    }
    let rows: Vec<_> = until.into_iter().map(|(id, until)| (Hex(id.0), until.0)).collect();
    Ok(script.then(KEEP_FILES).bind(json(&rows)?).expect_rows("files kept", rows.len()))
}

const INSERT_KEYS: &str = "INSERT INTO idempotency_keys (user_id, key, item, hash, message_id, created_at)
    SELECT value->>0, value->>1, value->>2, unhex(value->>3), unhex(value->>4), $2 FROM json_each($1)";

/// A row for each accepted item, and for a batch the row 0 that carries the hash.
fn insert_keys(script: Script, now: Time, items: &[Item<'_>], keys: &Keys) -> Result<Script> {
    let mut rows = Vec::new();
    let mut headed = HashSet::new();
    for item in items {
        let Some(key) = &item.request.key else { continue };
        let user = item.request.user;
        let hash: String = key.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        if key.batch && keys.kept(user, key).is_none() && headed.insert((user, &key.key)) {
            rows.push((user.0, &key.key, 0, hash.clone(), None));
        }
        rows.push((user.0, &key.key, item.key_item(key), hash, Some(Hex(item.message.id.0))));
    }
    if rows.is_empty() {
        return Ok(script);
    }
    Ok(script.then(INSERT_KEYS).bind(json(&rows)?).bind(now))
}

/// The lines that accepted items have in the audit trail.
fn insert_lines(script: Script, items: &[Item<'_>]) -> Result<Script> {
    let entry = |item: &Item<'_>| AuditEntry::accepted(item.request.by, item.request.user, item.message);
    let lines: Vec<_> = items.iter().filter_map(entry).map(|entry| audit_json(&entry)).collect();
    if lines.is_empty() {
        return Ok(script);
    }
    Ok(script
        .then(insert_audit!("json_each($1)"))
        .bind(json(&lines)?)
        .expect_rows("lines of the audit trail", lines.len()))
}
