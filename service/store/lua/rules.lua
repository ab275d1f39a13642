-- Shared: what operators have set for a tenant or a user, in one hash each.
--   CAPABILITY   until when it is restricted, ms (0: until lifted)
--   ANY_USER     of a tenant: until when any of its users may be restricted (as above)
--   REVOKED      tokens issued up to this second are refused
--   REVOKED_SKEW how many of these seconds, the last ones, were added for clocks that differ (absent: 0)
--   ANY_REVOKED  of a tenant: there may be a user of whom tokens are refused
--   =LIMIT       of a tenant: "requests window-in-seconds" in place of the configuration's
-- The flags of a tenant let an admission look at a user's own hash only where there may be something in it.

-- A hash whose entries are all timed ends with the last of them.
local function settle(rules)
  local last, timed = 0, true
  local entries = redis.call('HGETALL', rules)
  for i = 1, #entries, 2 do
    local field, ends = entries[i], tonumber(entries[i + 1])
    if string.find(field, '^[<=]') or ends == 0 then
      timed = false
    elseif ends <= now_ms then
      redis.call('HDEL', rules, field)
    else
      last = math.max(last, ends)
    end
  end
  if timed then redis.call('PEXPIREAT', rules, whole(last)) else redis.call('PERSIST', rules) end
end

-- The newest `iat` that a token in use can have now, in whole seconds, and how many seconds of that lie ahead: clocks
-- differ, so it is the later of the service's clock (ms) and Redis's, with the skew (ms) that is forgiven.
local function newest_issue_s(service_ms, skew_ms)
  local latest_ms = math.max(now_ms, service_ms)
  local newest_s = math.floor((latest_ms + skew_ms) / 1000)
  return newest_s, newest_s - math.floor(latest_ms / 1000)
end

-- Refuse the tokens that were issued up to a second; the user's, or without one the tenant's. Workers forget whom they
-- refuse: whoever brings such a token is told that, not that the user's quota is used up.
local function revoke(tenant_rules, user_rules, before_s, skew_s)
  redis.call('HSET', user_rules or tenant_rules, REVOKED, whole(before_s), REVOKED_SKEW, whole(skew_s))
  redis.call('PERSIST', user_rules or tenant_rules)
  if user_rules then
    redis.call('HSET', tenant_rules, ANY_REVOKED, '1')
    redis.call('PERSIST', tenant_rules)
  end
  redis.call('PUBLISH', PUSHES, string.match(tenant_rules, '{(.*)}'))
end
