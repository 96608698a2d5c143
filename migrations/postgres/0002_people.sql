-- A login and all the tokens that follow from it. The token in force carries the generation; an older one is a stolen one.
CREATE TABLE token_families (
    id         uuid   PRIMARY KEY,
    user_id    bigint NOT NULL REFERENCES users (id),
    generation bigint NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint
);
CREATE INDEX token_families_user ON token_families (user_id);
CREATE INDEX token_families_end ON token_families (expires_at);

-- Wrong passwords in a row, by address and name (its SHA-256, as people type passwords into the wrong field). The row
-- without a name is the address's own: it is locked by each attempt from there.
CREATE TABLE login_failures (
    address       text   NOT NULL,
    username      text   NOT NULL,
    failures      bigint NOT NULL,
    blocked_until bigint NOT NULL,
    last_at       bigint NOT NULL,
    PRIMARY KEY (address, username)
);
CREATE INDEX login_failures_username ON login_failures (username);
CREATE INDEX login_failures_age ON login_failures (last_at);

-- What is left of a deleted user: its id, under which its messages and usage stay.
ALTER TABLE users ADD COLUMN deleted_at bigint;
CREATE INDEX users_admins ON users (id) WHERE is_staff AND is_active AND deleted_at IS NULL;
