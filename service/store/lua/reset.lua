-- Give a subject its whole quota back, and tell every worker to forget that it was refused.
--
-- KEYS    the window
-- ARGV    the channel of pushes, the tenant
-- Returns 1 where something was used, else 0

local reset = redis.call('DEL', key())
local channel = arg()
redis.call('PUBLISH', channel, arg())
return reset
