-- Remove what has ended of a tenant, beside its users (due.lua): its own timed rules, and a stream without new events for
-- long. Returns the users whose rules, and the webhooks whose state, have ended.
--
-- KEYS    the tenant's rules, events, trails, the webhooks with a state, timed rules (rules.lua: the last)
-- ARGV    the service's clock ms: what is over by both clocks is ended; how long events and webhooks' state outlive the
--         last, ms; how many users and webhooks at most
-- Returns the users whose rules are due, then the names of the webhooks

local function run()
  local rules, events, trails, hooks, timed = key(), key(), key(), key(), key()
  local over_ms, lifetime, most = math.min(now_ms, number()), number(), number()

  settle(rules, over_ms)
  call('PERSIST', events)  -- an earlier version let it run out
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  if newest and tonumber(string.match(newest[1], '^%d+')) <= over_ms - lifetime then call('DEL', events, trails) end
  return {
    call('ZRANGEBYSCORE', timed, '-inf', whole(over_ms), 'LIMIT', 0, most),
    call('ZRANGEBYSCORE', hooks, '-inf', whole(over_ms - lifetime), 'LIMIT', 0, most),
  }
end
