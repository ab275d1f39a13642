-- Shared: what operators have set for a tenant or a user, in one hash each.
--   CAPABILITY   until when it is restricted, ms (0: until lifted)
--   ANY_USER     of a tenant: until when any of its users may be restricted (as above)
--   REVOKED      tokens issued up to this second are refused
--   ANY_REVOKED  of a tenant: there may be a user of whom tokens are refused
--   =LIMIT       of a tenant: "requests window-in-seconds" in place of the configuration's
-- The flags of a tenant let an admission look at a user's own hash only where there may be something in it.

-- A hash whose entries are all timed ends with the last of them.
local function settle(rules)
  local last, timed = 0, true
  local entries = redis.call('HGETALL', rules)
  for i = 1, #entries, 2 do
    local field, ends = entries[i], tonumber(entries[i + 1])
    if field == REVOKED or field == ANY_REVOKED or string.sub(field, 1, 1) == '=' or ends == 0 then
      timed = false
    elseif ends <= now_ms then
      redis.call('HDEL', rules, field)
    else
      last = math.max(last, ends)
    end
  end
  if timed then redis.call('PEXPIREAT', rules, whole(last)) else redis.call('PERSIST', rules) end
end

-- Refuse the tokens that were issued up to a second; the user's, or without one the tenant's. Workers forget whom they
-- refuse: whoever brings such a token is told that, not that the user's quota is used up.
local function revoke(tenant_rules, user_rules, before_s)
  redis.call('HSET', user_rules or tenant_rules, REVOKED, whole(before_s))
  redis.call('PERSIST', user_rules or tenant_rules)
  if user_rules then
    redis.call('HSET', tenant_rules, ANY_REVOKED, '1')
    redis.call('PERSIST', tenant_rules)
  end
  redis.call('PUBLISH', PUSHES, string.match(tenant_rules, '{(.*)}'))
end
