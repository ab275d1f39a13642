-- Whether this server takes writes: one that is full, misconfigured or a replica answers PING all the same.
--
-- KEYS    a key that is of no use to anybody
-- Returns OK, or the error that keeps it from writing

local answer = redis.pcall('SET', KEYS[1], '1', 'PX', 1000)
if answer.err and SERVERS_OWN[string.match(answer.err, '^-?(%u+)')] then return redis.error_reply(answer.err) end
return redis.status_reply('OK')
