-- Set a tenant's limit over the configuration's, or lift that; every worker forgets whom it refuses.
--
-- KEYS    the tenant's rules (rules.lua), events
-- ARGV    the limit's name, requests (0 lifts), window s, the channel of pushes, the tenant, by, client address, request
--         id, reason
-- Returns 1 where something changed, else 0

local rules, events = key(), key()
local limit, requests, window, channel, tenant = arg(), number(), arg(), arg(), arg()
local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

local field, changed, entry = '=' .. limit, 0, { 'type', 'limit', 'limit', limit }
if requests == 0 then
  changed = redis.call('HDEL', rules, field)
  entry[#entry + 1] = 'change'; entry[#entry + 1] = 'lifted'
else
  local value = whole(requests) .. ' ' .. window
  changed = redis.call('HGET', rules, field) == value and 0 or 1
  redis.call('HSET', rules, field, value)
  for _, one in ipairs({ 'change', 'set', 'requests', whole(requests), 'window', window }) do entry[#entry + 1] = one end
end
settle(rules)
redis.call('PUBLISH', channel, tenant)
if changed == 1 then tell(events, entry, about) end
return changed
