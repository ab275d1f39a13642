-- Restrict a tenant or a user from a capability, or lift that. Tells it as an event where it changes something.
--
-- KEYS    the tenant's rules and events; for a user, its own rules after them (rules.lua)
-- ARGV    capability, until ms (0: until lifted; -1: lift now), user ('' for the tenant), by, client address, request id,
--         reason
-- Returns 1 where something changed, else 0

local tenant_rules, events, user_rules = key(), key(), key()
local capability, until_ms, user = arg(), number(), arg()
local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

local rules = user_rules or tenant_rules
local changed
if until_ms < 0 then
  changed = redis.call('HDEL', rules, capability)
else
  changed = redis.call('HGET', rules, capability) == whole(until_ms) and 0 or 1
  redis.call('HSET', rules, capability, whole(until_ms))
end
if user_rules and until_ms >= 0 then
  local any = tonumber(redis.call('HGET', tenant_rules, ANY_USER) or 1)
  local for_good = any == 0 or until_ms == 0
  redis.call('HSET', tenant_rules, ANY_USER, for_good and '0' or whole(math.max(any, until_ms)))
  settle(tenant_rules)
end
settle(rules)
if changed == 1 then
  local entry = { 'type', 'restriction', 'capability', capability, 'change', until_ms < 0 and 'lifted' or 'set' }
  if user ~= '' then entry[#entry + 1] = 'user'; entry[#entry + 1] = user end
  if until_ms > 0 then entry[#entry + 1] = 'until'; entry[#entry + 1] = whole(until_ms) end
  tell(events, entry, about)
end
return changed
