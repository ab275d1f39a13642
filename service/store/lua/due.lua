-- Who is due for the sweep, soonest first: a small bite.
--
-- KEYS    due
-- ARGV    how many at most
-- Returns users

return redis.call('ZRANGEBYSCORE', key(), '-inf', whole(now_ms), 'LIMIT', 0, number())
