-- The audit trail: logins, refusals, and what admins change. Each class is bounded for itself.
CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    class    INTEGER NOT NULL,
    -- Who did it: null if unknown, and for the command line, which has no address either.
    actor_id INTEGER,
    address  TEXT,
    action   TEXT    NOT NULL,
    -- Such as user/5.
    target   TEXT,
    -- A JSON object.
    detail   TEXT    NOT NULL,
    -- More than 1 only in lines that count, which `counted` names.
    count    INTEGER NOT NULL,
    counted  TEXT
) STRICT;
CREATE INDEX audit_list ON audit (at, id);
CREATE INDEX audit_actor ON audit (actor_id, at, id) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_target ON audit (target, at, id) WHERE target IS NOT NULL;
CREATE INDEX audit_action ON audit (action, at, id);
CREATE INDEX audit_class ON audit (class, id);
CREATE UNIQUE INDEX audit_counted ON audit (counted) WHERE counted IS NOT NULL;
