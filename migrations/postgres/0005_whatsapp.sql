-- What a session's WhatsApp device knows: keys, ratchets, and what the protocol must remember. The values are encrypted by
-- the bridge; what `kind` and `key` say is its business, too.
CREATE TABLE whatsapp_state (
    session_id uuid     NOT NULL,
    kind       smallint NOT NULL,
    key        bytea    NOT NULL,
    at         bigint   NOT NULL,
    value      bytea    NOT NULL,
    PRIMARY KEY (session_id, kind, key)
) WITH (fillfactor = 70);

-- How often its user has asked to connect it: a banned session's owner sees by that that it was asked again.
ALTER TABLE sessions ADD COLUMN connects bigint NOT NULL DEFAULT 0;
-- When a ban ends, and when the phone was linked: a new link is used with more care.
ALTER TABLE sessions ADD COLUMN blocked_until bigint;
ALTER TABLE sessions ADD COLUMN paired_at bigint;
-- Send less in the first two weeks after that.
ALTER TABLE sessions ADD COLUMN warm_up boolean NOT NULL DEFAULT false;
-- By what the session reaches WhatsApp: encrypted, and as it is shown, without credentials.
ALTER TABLE sessions ADD COLUMN proxy bytea;
ALTER TABLE sessions ADD COLUMN proxy_shown text;
