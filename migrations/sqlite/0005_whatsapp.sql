-- What a session's WhatsApp device knows: keys, ratchets, and what the protocol must remember. The values are encrypted by
-- the bridge; what `kind` and `key` say is its business, too.
CREATE TABLE whatsapp_state (
    session_id BLOB    NOT NULL,
    kind       INTEGER NOT NULL,
    key        BLOB    NOT NULL,
    at         INTEGER NOT NULL,
    value      BLOB    NOT NULL,
    PRIMARY KEY (session_id, kind, key)
) STRICT, WITHOUT ROWID;

-- How often its user has asked to connect it: a banned session's owner sees by that that it was asked again.
ALTER TABLE sessions ADD COLUMN connects INTEGER NOT NULL DEFAULT 0;
-- When a ban ends, and when the phone was linked: a new link is used with more care.
ALTER TABLE sessions ADD COLUMN blocked_until INTEGER;
ALTER TABLE sessions ADD COLUMN paired_at INTEGER;
-- Send less in the first two weeks after that.
ALTER TABLE sessions ADD COLUMN warm_up INTEGER NOT NULL DEFAULT 0;
-- By what the session reaches WhatsApp: encrypted, and as it is shown, without credentials.
ALTER TABLE sessions ADD COLUMN proxy BLOB;
ALTER TABLE sessions ADD COLUMN proxy_shown TEXT;
