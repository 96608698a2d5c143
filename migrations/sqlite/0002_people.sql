-- A login and all the tokens that follow from it. The token in force carries the generation; an older one is a stolen one.
CREATE TABLE token_families (
    id         BLOB    NOT NULL PRIMARY KEY,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE INDEX token_families_user ON token_families (user_id);
CREATE INDEX token_families_end ON token_families (expires_at);

-- Wrong passwords in a row, by address and name (its SHA-256, as people type passwords into the wrong field). The row
-- without a name is the address's own.
CREATE TABLE login_failures (
    address       TEXT    NOT NULL,
    username      TEXT    NOT NULL,
    failures      INTEGER NOT NULL,
    blocked_until INTEGER NOT NULL,
    last_at       INTEGER NOT NULL,
    PRIMARY KEY (address, username)
) STRICT;
CREATE INDEX login_failures_username ON login_failures (username);
CREATE INDEX login_failures_age ON login_failures (last_at);

-- What is left of a deleted user: its id, under which its messages and usage stay.
ALTER TABLE users ADD COLUMN deleted_at INTEGER;
CREATE INDEX users_admins ON users (id) WHERE is_staff AND is_active AND deleted_at IS NULL;
