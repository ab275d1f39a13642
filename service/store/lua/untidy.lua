-- Which of some tenants have something for `tidy` to remove.
--
-- KEYS    for each tenant: rules, events, the webhooks with a state, timed rules
-- ARGV    the service's clock ms: what is over by both clocks is ended; how long events and webhooks' state outlive the
--         last, ms
-- Returns their places among the tenants, the first being 1

local function is_untidy(rules, events, hooks, timed, over_ms, lifetime)
  local left_ms = call('PTTL', events)
  if call('PTTL', rules) >= 0 or left_ms >= 0 then return true end  -- an earlier version lets them run out
  if #call('ZRANGEBYSCORE', timed, '-inf', whole(over_ms), 'LIMIT', 0, 1) > 0 then return true end
  if #call('ZRANGEBYSCORE', hooks, '-inf', whole(over_ms - lifetime), 'LIMIT', 0, 1) > 0 then return true end
  if left_ms == -2 then return false end  -- there are none
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  return newest ~= nil and tonumber(string.match(newest[1], '^%d+')) <= over_ms - lifetime
end

local function run()
  local over_ms, lifetime = math.min(now_ms, number()), number()
  local found = {}
  for place = 1, #KEYS / 4 do
    if is_untidy(key(), key(), key(), key(), over_ms, lifetime) then found[#found + 1] = place end
  end
  return found
end
