-- Shared: what operators have set for a tenant or a user, in one hash each.
--   CAPABILITY   until when it is restricted, ms (0: until lifted)
--   ANY_USER     of a tenant: until when any of its users may be restricted (as above)
--   REVOKED      tokens issued up to this second are refused
--   REVOKED_SKEW how many of these seconds, the last ones, were added for clocks that differ (absent: 0)
--   ANY_REVOKED  of a tenant: there may be a user of whom tokens are refused
--   =LIMIT       of a tenant: "requests window-in-seconds" in place of the configuration's
-- The flags of a tenant let an admission read a user's own hash only if there may be something in it.

-- No key of rules has a TTL, or a server with a maxmemory-policy of volatile-* could evict it. What is timed is listed in a
-- sorted set, the last of KEYS: the user ('' for the tenant) → when the first of its timed entries ends, ms. Entries that
-- ended up to `over_ms` are removed; without it none is: an action knows only one clock, which may be ahead.
local function settle(rules, over_ms)
  local ends_first
  local entries = call('HGETALL', rules)
  for i = 1, #entries, 2 do
    local field, ends = entries[i], tonumber(entries[i + 1])
    if string.find(field, '^[<=]') or not ends or ends == 0 then
      -- It stays until an operator lifts it; so does a value that is not a moment, which the service did not write.
    elseif over_ms and ends <= over_ms then
      call('HDEL', rules, field)
    else
      ends_first = math.min(ends_first or ends, ends)
    end
  end
  call('PERSIST', rules)  -- an earlier version let it run out
  local user = string.match(rules, '}:rules:?(.*)$')
  if ends_first then
    call('ZADD', KEYS[#KEYS], whole(ends_first), user)
  else
    call('ZREM', KEYS[#KEYS], user)
  end
end

-- The newest `iat` that a token in use can have now, in whole seconds, and how many seconds of that lie ahead: clocks
-- differ, so it is the later of the service's clock (ms) and Redis's, with the skew (ms) that is tolerated. And by how many
-- seconds these two clocks differ.
local function newest_issue_s(service_ms, skew_ms)
  local latest_ms = math.max(now_ms, service_ms)
  local newest_s = math.floor((latest_ms + skew_ms) / 1000)
  return newest_s, newest_s - math.floor(latest_ms / 1000), math.floor(math.abs(now_ms - service_ms) / 1000)
end

-- Revoke the tokens that were issued up to a second: the user's, or without one the tenant's. Workers forget their denials,
-- so that a client with such a token gets this error, and not that the user's quota is used up.
local function revoke(tenant_rules, user_rules, before_s, skew_s)
  call('HSET', user_rules or tenant_rules, REVOKED, whole(before_s), REVOKED_SKEW, whole(skew_s))
  call('PERSIST', user_rules or tenant_rules)
  if user_rules then
    call('HSET', tenant_rules, ANY_REVOKED, '1')
    call('PERSIST', tenant_rules)
  end
  call('PUBLISH', PUSHES, string.match(tenant_rules, '{(.*)}'))
end
