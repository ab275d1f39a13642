-- Set a tenant's limit in place of the configured one, or lift that; every worker forgets its denials.
--
-- KEYS    the tenant's rules, events, timed rules (rules.lua: the last)
-- ARGV    the limit's name, requests (0 lifts), window s, the configuration's requests (0: it has none) and window s, the
--         channel of pushes, the tenant, by, client address, request id, reason
-- Returns whether something changed (1|0), and what an operator had set before: requests and window s (0: nothing)

local function run()
  local rules, events = key(), key()
  local limit, requests, window, configured, configured_window = arg(), number(), arg(), number(), arg()
  local channel, tenant = arg(), arg()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

  local field, changed, entry = '=' .. limit, 1, { 'type', 'limit', 'limit', limit }
  local function add(...) for _, one in ipairs({ ... }) do entry[#entry + 1] = one end end
  local held = call('HGET', rules, field)
  local held_requests, held_window = string.match(held or '', '^(%d+) (%d+)$')
  if requests == 0 then
    changed = call('HDEL', rules, field)
    add('change', 'lifted')
    if configured > 0 then add('requests', whole(configured), 'window', configured_window) end
  else
    local value = whole(requests) .. ' ' .. window
    if held == value then changed = 0 end
    call('HSET', rules, field, value)
    add('change', 'set', 'requests', whole(requests), 'window', window)
  end
  -- The event has the values before, too.
  if held_requests then
    add('previousRequests', held_requests, 'previousWindow', held_window)
  elseif configured > 0 then
    add('previousRequests', whole(configured), 'previousWindow', configured_window)
  end
  settle(rules)
  call('PUBLISH', channel, tenant)
  if changed == 1 then emit(events, entry, about) end
  return { changed, tonumber(held_requests) or 0, tonumber(held_window) or 0 }
end
