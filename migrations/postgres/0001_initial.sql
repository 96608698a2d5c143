-- Times are milliseconds since 1970 in UTC, days are days since then: one form for both databases, cheap to compare.
-- No index of `messages` mentions `status`, in its columns or in its predicate: status changes stay HOT so.

-- The clock: one instant throughout a statement. Inlined by the planner.
CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint';

CREATE TABLE deployment (
    id         text   PRIMARY KEY,
    created_at bigint NOT NULL
);

CREATE TABLE users (
    id                   bigint  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    username             text    NOT NULL UNIQUE,
    password_hash        text    NOT NULL,
    email                text    NOT NULL DEFAULT '',
    first_name           text    NOT NULL DEFAULT '',
    last_name            text    NOT NULL DEFAULT '',
    is_staff             boolean NOT NULL,
    is_active            boolean NOT NULL DEFAULT true,
    max_messages_per_day bigint,
    created_at           bigint  NOT NULL,
    updated_at           bigint  NOT NULL
);

CREATE TABLE api_keys (
    id           bigint  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    user_id      bigint  NOT NULL REFERENCES users (id),
    name         text    NOT NULL,
    lookup       text    NOT NULL UNIQUE,
    hash         bytea   NOT NULL,
    is_active    boolean NOT NULL DEFAULT true,
    expires_at   bigint,
    last_used_at bigint,
    created_at   bigint  NOT NULL
);
CREATE INDEX api_keys_user ON api_keys (user_id, id);

-- One row per run of a worker process. Writers lock it FOR KEY SHARE, declaring it dead locks it FOR UPDATE.
CREATE TABLE workers (
    id          uuid   PRIMARY KEY,
    lease_until bigint NOT NULL,
    started_at  bigint NOT NULL
);

-- Who sweeps, promotes and counts: one row.
CREATE TABLE housekeeper (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    worker uuid,
    until  bigint  NOT NULL
);
INSERT INTO housekeeper (worker, until) VALUES (NULL, 0);

CREATE TABLE sessions (
    id                        uuid     PRIMARY KEY,
    user_id                   bigint   NOT NULL,
    name                      text     NOT NULL,
    bridge                    smallint NOT NULL,
    status                    smallint NOT NULL DEFAULT 0,
    wanted                    boolean  NOT NULL DEFAULT false,
    logout                    boolean  NOT NULL DEFAULT false,
    paused                    boolean  NOT NULL DEFAULT false,
    paired                    boolean  NOT NULL DEFAULT false,
    owner                     uuid,
    blocked_reason            text,
    phone_number              text,
    qr_code                   text,
    qr_expires_at             bigint,
    pair_phone                text,
    pair_code                 text,
    pair_code_expires_at      bigint,
    connected_at              bigint,
    last_active_at            bigint,
    queued                    bigint   NOT NULL DEFAULT 0,
    per_minute                bigint,
    burst                     bigint,
    jitter_ms                 bigint   NOT NULL DEFAULT 0,
    first_contacts_per_minute bigint,
    typing                    boolean  NOT NULL DEFAULT false,
    paced_until               bigint,
    deleting_at               bigint,
    drained_at                bigint,
    created_at                bigint   NOT NULL,
    updated_at                bigint   NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX sessions_name ON sessions (user_id, name) WHERE deleting_at IS NULL;
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_owner ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX sessions_free ON sessions (id) WHERE owner IS NULL AND (wanted OR logout);
CREATE INDEX sessions_deleting ON sessions (deleting_at) WHERE deleting_at IS NOT NULL AND drained_at IS NULL;

-- Without cache, and drawn after the quota row is locked: a user's order is the order of commit.
CREATE SEQUENCE message_seq AS bigint CACHE 1;

CREATE TABLE messages (
    id               uuid     PRIMARY KEY,
    seq              bigint   NOT NULL DEFAULT nextval('message_seq'),
    user_id          bigint   NOT NULL,
    session_id       uuid     NOT NULL,
    created_at       bigint   NOT NULL,
    expires_at       bigint   NOT NULL,
    updated_at       bigint   NOT NULL,
    quota_day        bigint   NOT NULL,
    due_at           bigint,
    send_at          bigint,
    sent_at          bigint,
    delivered_at     bigint,
    read_at          bigint,
    claimed_by       uuid,
    claim            bigint,
    reply_to         uuid,
    replayed_from    uuid,
    attempts         integer  NOT NULL DEFAULT 0,
    unknown_attempts integer  NOT NULL DEFAULT 0,
    crashes          integer  NOT NULL DEFAULT 0,
    status           smallint NOT NULL,
    type             smallint NOT NULL,
    hold             smallint NOT NULL DEFAULT 0,
    open             boolean  NOT NULL,
    refunded         boolean  NOT NULL DEFAULT false,
    recipient        text     NOT NULL,
    whatsapp_id      text     NOT NULL,
    reference        text,
    request_id       text     NOT NULL,
    content          text     NOT NULL,
    error            text,
    CHECK (open = (status IN (1, 2)))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);
CREATE UNIQUE INDEX messages_whatsapp_id ON messages (whatsapp_id, session_id);
CREATE INDEX messages_list ON messages (user_id, id);
CREATE INDEX messages_reference ON messages (user_id, reference, id) WHERE reference IS NOT NULL;
CREATE INDEX messages_open_recipient ON messages (session_id, recipient, seq) WHERE open;
CREATE INDEX messages_open_session ON messages (session_id, seq) WHERE open;
-- The sweep's own: with `WHERE open` alone, a planner that knows of few open rows would read all of them through it instead
-- of looking for a session's.
CREATE INDEX messages_expiry ON messages (expires_at) WHERE open AND expires_at > 0;
CREATE INDEX messages_scheduled ON messages (due_at, seq) WHERE due_at IS NOT NULL AND NOT open;
CREATE INDEX messages_dead ON messages (id) WHERE crashes >= 3;

-- want, lim, granted: scratch of the accepting statement, which can't return what a row was before.
CREATE TABLE quotas (
    user_id  bigint NOT NULL,
    day      bigint NOT NULL,
    used     bigint NOT NULL,
    accepted bigint NOT NULL,
    want     bigint NOT NULL DEFAULT 0,
    lim      bigint,
    granted  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day)
) WITH (fillfactor = 20);

-- Sharded by writing process, so that no row is hot; summed when read, folded into shard 0 when old.
CREATE TABLE usage_stats (
    user_id      bigint NOT NULL,
    day          bigint NOT NULL,
    shard        bigint NOT NULL,
    sent         bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,
    media_sent   bigint NOT NULL DEFAULT 0,
    api_requests bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day, shard)
) WITH (fillfactor = 20);

-- item 0 carries the hash of the request (and the message, unless the request is a batch, whose items are 1, 2, …).
CREATE TABLE idempotency_keys (
    user_id    bigint  NOT NULL,
    key        text    NOT NULL,
    item       integer NOT NULL,
    hash       bytea   NOT NULL,
    message_id uuid,
    created_at bigint  NOT NULL,
    PRIMARY KEY (user_id, key, item)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Each change of a message's status after acceptance (message_id) and of a session's (session_id alone).
CREATE SEQUENCE event_n AS bigint CACHE 1;
CREATE TABLE events (
    n          bigint   NOT NULL DEFAULT nextval('event_n'),
    at         bigint   NOT NULL,
    user_id    bigint   NOT NULL,
    session_id uuid     NOT NULL,
    message_id uuid,
    status     smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX events_user ON events (user_id, n);
CREATE TABLE events_default PARTITION OF events DEFAULT;
