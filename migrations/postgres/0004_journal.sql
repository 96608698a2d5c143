-- All users' events in the order of their numbers: what a process with listeners reads.
CREATE INDEX events_n ON events (n);

-- Usage by day, everybody's.
CREATE INDEX quotas_day ON quotas (day, user_id);
CREATE INDEX usage_stats_day ON usage_stats (day, user_id);

-- One line for each request to the API; a partition a day. `n` tells those of one time apart: their order doesn't matter, so
-- that each connection may draw numbers ahead.
CREATE SEQUENCE api_log_n AS bigint CACHE 100;
CREATE TABLE api_logs (
    n           bigint   NOT NULL DEFAULT nextval('api_log_n'),
    at          bigint   NOT NULL,
    user_id     bigint,
    duration_us bigint   NOT NULL,
    status      smallint NOT NULL,
    endpoint    text     NOT NULL,
    method      text     NOT NULL,
    ip_address  text     NOT NULL,
    request_id  text     NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX api_logs_list ON api_logs (at, n);
CREATE INDEX api_logs_user ON api_logs (user_id, at, n) WHERE user_id IS NOT NULL;
CREATE TABLE api_logs_default PARTITION OF api_logs DEFAULT;

-- The first days': later ones are made ahead, while the default partition, which each new one must look through, is empty.
DO $$
DECLARE
    today bigint := now_ms() / 86400000;
BEGIN
    FOR day IN today .. today + 2 LOOP
        EXECUTE format(
            'CREATE TABLE api_logs_%s PARTITION OF api_logs FOR VALUES FROM (%s) TO (%s)',
            to_char(to_timestamp(day::bigint * 86400) AT TIME ZONE 'UTC', 'YYYYMMDD'), day::bigint * 86400000,
            (day + 1)::bigint * 86400000);
    END LOOP;
END $$;
