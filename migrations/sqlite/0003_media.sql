-- Files that clients have given us: here is what is known of them, the bytes are in the data dir or in S3. `gone`: nobody may
-- refer to it any more, its bytes are being removed.
CREATE TABLE media (
    id         BLOB    NOT NULL PRIMARY KEY,
    user_id    INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    keep_until INTEGER NOT NULL,
    gone       INTEGER NOT NULL,
    mime_type  TEXT    NOT NULL,
    filename   TEXT
) STRICT;
CREATE INDEX media_keep ON media (keep_until) WHERE NOT gone;
CREATE INDEX media_gone ON media (id) WHERE gone;
