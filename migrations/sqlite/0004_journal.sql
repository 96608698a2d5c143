-- The API log has a database file of its own: see migrations/sqlite-logs.

-- Usage by day, everybody's.
CREATE INDEX quotas_day ON quotas (day, user_id);
CREATE INDEX usage_stats_day ON usage_stats (day, user_id);
