-- Restrict a tenant or a user from a capability, or lift that.
--
-- KEYS    the restrictions of the tenant or of the user
-- ARGV    capability, until ms (0: until lifted; -1: lift now)
-- Returns 1 where something changed, else 0
-- A hash whose entries are all timed ends with the last of them.

local restrictions, capability, until_ms = key(), arg(), number()
local changed
if until_ms < 0 then
  changed = redis.call('HDEL', restrictions, capability)
else
  changed = redis.call('HGET', restrictions, capability) == whole(until_ms) and 0 or 1
  redis.call('HSET', restrictions, capability, whole(until_ms))
end
local last, timed = 0, true
local entries = redis.call('HGETALL', restrictions)
for i = 1, #entries, 2 do
  local ends = tonumber(entries[i + 1])
  if ends == 0 then
    timed = false
  elseif ends <= now_ms then
    redis.call('HDEL', restrictions, entries[i])
  end
  last = math.max(last, ends)
end
if timed then redis.call('PEXPIREAT', restrictions, whole(last)) else redis.call('PERSIST', restrictions) end
return changed
