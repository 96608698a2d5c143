-- One line for each request to the API. `n` tells those of one time apart.
CREATE TABLE api_logs (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    user_id     INTEGER,
    endpoint    TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    ip_address  TEXT    NOT NULL,
    request_id  TEXT    NOT NULL
) STRICT;
CREATE INDEX api_logs_list ON api_logs (at, n);
CREATE INDEX api_logs_user ON api_logs (user_id, at, n) WHERE user_id IS NOT NULL;
