-- The audit trail: logins, refusals, and what admins change. Each class is bounded for itself.
CREATE TABLE audit (
    id       bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       bigint   NOT NULL,
    class    smallint NOT NULL,
    -- Who did it: null if unknown, and for the command line, which has no address either.
    actor_id bigint,
    address  text,
    action   text     NOT NULL,
    -- Such as user/5.
    target   text,
    -- A JSON object.
    detail   text     NOT NULL,
    -- More than 1 only in lines that count, which `counted` names.
    count    bigint   NOT NULL,
    counted  text
);
CREATE INDEX audit_list ON audit (at, id);
CREATE INDEX audit_actor ON audit (actor_id, at, id) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_target ON audit (target, at, id) WHERE target IS NOT NULL;
CREATE INDEX audit_action ON audit (action, at, id);
CREATE INDEX audit_class ON audit (class, id);
CREATE UNIQUE INDEX audit_counted ON audit (counted) WHERE counted IS NOT NULL;
