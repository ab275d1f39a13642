-- Restrict a tenant or a user from a capability, or lift that.
--
-- KEYS    the restrictions of the tenant; for a user, its own after them
-- ARGV    capability, until ms (0: until lifted; -1: lift now)
-- Returns 1 where something changed, else 0
-- A hash whose entries are all timed ends with the last of them. The tenant's entry `ANY_USER` says until when
-- any of its users may be restricted, so that an admission looks at a user's own only where there may be some.

local tenant, user = key(), key()
local capability, until_ms = arg(), number()

local function settle(restrictions)
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
end

local restrictions = user or tenant
local changed
if until_ms < 0 then
  changed = redis.call('HDEL', restrictions, capability)
else
  changed = redis.call('HGET', restrictions, capability) == whole(until_ms) and 0 or 1
  redis.call('HSET', restrictions, capability, whole(until_ms))
end
if user and until_ms >= 0 then
  local any = tonumber(redis.call('HGET', tenant, ANY_USER) or 1)
  local for_good = any == 0 or until_ms == 0
  redis.call('HSET', tenant, ANY_USER, for_good and '0' or whole(math.max(any, until_ms)))
  settle(tenant)
end
settle(restrictions)
return changed
