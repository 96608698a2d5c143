-- Times are milliseconds since 1970 in UTC, days are days since then: one form for both databases, cheap to compare.
-- No index of `messages` mentions `status`: the same indexes as on PostgreSQL, and the same plans.

CREATE TABLE deployment (
    id         TEXT    NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id                   INTEGER PRIMARY KEY AUTOINCREMENT,
    username             TEXT    NOT NULL UNIQUE,
    password_hash        TEXT    NOT NULL,
    email                TEXT    NOT NULL DEFAULT '',
    first_name           TEXT    NOT NULL DEFAULT '',
    last_name            TEXT    NOT NULL DEFAULT '',
    is_staff             INTEGER NOT NULL,
    is_active            INTEGER NOT NULL DEFAULT 1,
    max_messages_per_day INTEGER,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      INTEGER NOT NULL REFERENCES users (id),
    name         TEXT    NOT NULL,
    lookup       TEXT    NOT NULL UNIQUE,
    hash         BLOB    NOT NULL,
    is_active    INTEGER NOT NULL DEFAULT 1,
    expires_at   INTEGER,
    last_used_at INTEGER,
    created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX api_keys_user ON api_keys (user_id, id);

-- One row per run of a worker process.
CREATE TABLE workers (
    id          BLOB    NOT NULL PRIMARY KEY,
    lease_until INTEGER NOT NULL,
    started_at  INTEGER NOT NULL
) STRICT;

-- Who sweeps, promotes and counts: one row.
CREATE TABLE housekeeper (
    only   INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only = 1),
    worker BLOB,
    until  INTEGER NOT NULL
) STRICT;
INSERT INTO housekeeper (worker, until) VALUES (NULL, 0);

CREATE TABLE sessions (
    id                        BLOB    NOT NULL PRIMARY KEY,
    user_id                   INTEGER NOT NULL,
    name                      TEXT    NOT NULL,
    bridge                    INTEGER NOT NULL,
    status                    INTEGER NOT NULL DEFAULT 0,
    wanted                    INTEGER NOT NULL DEFAULT 0,
    logout                    INTEGER NOT NULL DEFAULT 0,
    paused                    INTEGER NOT NULL DEFAULT 0,
    paired                    INTEGER NOT NULL DEFAULT 0,
    owner                     BLOB,
    blocked_reason            TEXT,
    phone_number              TEXT,
    qr_code                   TEXT,
    qr_expires_at             INTEGER,
    pair_phone                TEXT,
    pair_code                 TEXT,
    pair_code_expires_at      INTEGER,
    connected_at              INTEGER,
    last_active_at            INTEGER,
    queued                    INTEGER NOT NULL DEFAULT 0,
    per_minute                INTEGER,
    burst                     INTEGER,
    jitter_ms                 INTEGER NOT NULL DEFAULT 0,
    first_contacts_per_minute INTEGER,
    typing                    INTEGER NOT NULL DEFAULT 0,
    paced_until               INTEGER,
    deleting_at               INTEGER,
    drained_at                INTEGER,
    created_at                INTEGER NOT NULL,
    updated_at                INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_name ON sessions (user_id, name) WHERE deleting_at IS NULL;
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_owner ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX sessions_free ON sessions (id) WHERE owner IS NULL AND (wanted OR logout);
CREATE INDEX sessions_deleting ON sessions (deleting_at) WHERE deleting_at IS NOT NULL AND drained_at IS NULL;

CREATE TABLE messages (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    id               BLOB    NOT NULL UNIQUE,
    user_id          INTEGER NOT NULL,
    session_id       BLOB    NOT NULL,
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    quota_day        INTEGER NOT NULL,
    due_at           INTEGER,
    send_at          INTEGER,
    sent_at          INTEGER,
    delivered_at     INTEGER,
    read_at          INTEGER,
    claimed_by       BLOB,
    claim            INTEGER,
    reply_to         BLOB,
    replayed_from    BLOB,
    attempts         INTEGER NOT NULL DEFAULT 0,
    unknown_attempts INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    status           INTEGER NOT NULL,
    type             INTEGER NOT NULL,
    hold             INTEGER NOT NULL DEFAULT 0,
    open             INTEGER NOT NULL,
    refunded         INTEGER NOT NULL DEFAULT 0,
    recipient        TEXT    NOT NULL,
    whatsapp_id      TEXT    NOT NULL,
    reference        TEXT,
    request_id       TEXT    NOT NULL,
    content          TEXT    NOT NULL,
    error            TEXT,
    CHECK (open = (status IN (1, 2)))
) STRICT;
CREATE UNIQUE INDEX messages_whatsapp_id ON messages (whatsapp_id, session_id);
CREATE INDEX messages_list ON messages (user_id, id);
CREATE INDEX messages_reference ON messages (user_id, reference, id) WHERE reference IS NOT NULL;
CREATE INDEX messages_open_recipient ON messages (session_id, recipient, seq) WHERE open;
CREATE INDEX messages_open_session ON messages (session_id, seq) WHERE open;
CREATE INDEX messages_expiry ON messages (expires_at) WHERE open;
CREATE INDEX messages_scheduled ON messages (due_at, seq) WHERE due_at IS NOT NULL AND NOT open;
CREATE INDEX messages_dead ON messages (id) WHERE crashes >= 3;

CREATE TABLE quotas (
    user_id  INTEGER NOT NULL,
    day      INTEGER NOT NULL,
    used     INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (user_id, day)
) STRICT, WITHOUT ROWID;

-- Sharded by writing process as on PostgreSQL; summed when read, folded into shard 0 when old.
CREATE TABLE usage_stats (
    user_id      INTEGER NOT NULL,
    day          INTEGER NOT NULL,
    shard        INTEGER NOT NULL,
    sent         INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    media_sent   INTEGER NOT NULL DEFAULT 0,
    api_requests INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day, shard)
) STRICT, WITHOUT ROWID;

-- item 0 carries the hash of the request (and the message, unless the request is a batch, whose items are 1, 2, …).
CREATE TABLE idempotency_keys (
    user_id    INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    item       INTEGER NOT NULL,
    hash       BLOB    NOT NULL,
    message_id BLOB,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, key, item)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Each change of a message's status after acceptance (message_id) and of a session's (session_id alone).
CREATE TABLE events (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    user_id    INTEGER NOT NULL,
    session_id BLOB    NOT NULL,
    message_id BLOB,
    status     INTEGER NOT NULL
) STRICT;
CREATE INDEX events_user ON events (user_id, n);
