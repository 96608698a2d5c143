-- Files that clients have given us: here is what is known of them, the bytes are in the data dir or in S3. `gone`: nobody may
-- refer to it any more, its bytes are being removed.
CREATE TABLE media (
    id         uuid    PRIMARY KEY,
    user_id    bigint  NOT NULL,
    size       bigint  NOT NULL,
    created_at bigint  NOT NULL,
    keep_until bigint  NOT NULL,
    gone       boolean NOT NULL,
    mime_type  text    NOT NULL,
    filename   text
);
CREATE INDEX media_keep ON media (keep_until) WHERE NOT gone;
CREATE INDEX media_gone ON media (id) WHERE gone;
