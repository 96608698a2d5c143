-- What one user may hold is bounded: bytes of files, messages kept, sessions.

-- The file that a message sends, of those that are kept: it isn't removed while a message needs it.
ALTER TABLE messages ADD COLUMN media_id uuid;
UPDATE messages SET media_id = (content::json -> 'media' ->> 'id')::uuid WHERE open OR due_at IS NOT NULL;
CREATE INDEX messages_media ON messages (media_id) WHERE media_id IS NOT NULL AND (open OR due_at IS NOT NULL);

-- A session's scheduled messages, without a look at those of all others.
CREATE INDEX messages_scheduled_session ON messages (session_id, due_at) WHERE due_at IS NOT NULL AND NOT open;

-- The bytes of a user's files: those in `media`, summed.
CREATE TABLE media_bytes (
    user_id bigint PRIMARY KEY,
    bytes   bigint NOT NULL CHECK (bytes >= 0)
) WITH (fillfactor = 20);
INSERT INTO media_bytes (user_id, bytes) SELECT user_id, sum(size) FROM media GROUP BY user_id;

-- Units that were to be given back and had not been taken: 0, unless there is a defect. `used` never falls below 0.
ALTER TABLE quotas ADD COLUMN short bigint NOT NULL DEFAULT 0;
UPDATE quotas SET used = 0, short = -used WHERE used < 0;
CREATE INDEX quotas_short ON quotas (day) WHERE short > 0;

-- How far a sweep has looked: it doesn't look at the same rows again.
CREATE TABLE sweeps (
    name     text PRIMARY KEY,
    position uuid NOT NULL
);
CREATE INDEX usage_stats_unfolded ON usage_stats (day, user_id, shard) WHERE shard <> 0;

-- Addresses that somebody has logged in from: they have places of their own among those who wait to have a password checked.
CREATE TABLE login_addresses (
    address text   PRIMARY KEY,
    last_at bigint NOT NULL
);
CREATE INDEX login_addresses_age ON login_addresses (last_at);
