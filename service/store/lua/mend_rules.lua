-- Make what is set for some users be looked at and end when it should: the tenant's flags, and the list of timed rules.
--
-- KEYS    the tenant's rules, the rules of each user, timed rules (rules.lua: the last)
-- ARGV    each user
-- Returns the users for whom something was missing, and those of whom an entry, or all, cannot be read and is left as it is

local function run()
  local tenant_rules, timed = key(), KEYS[#KEYS]
  local mended, unreadable = {}, {}

  while arg_at < #ARGV do
    local rules, user, wrong, odd = key(), arg(), false, false
    local before, lasts = call('ZSCORE', timed, user), call('TTL', rules) >= 0
    local entries = redis.pcall('HGETALL', rules)
    for i = 1, #entries, 2 do  -- none where it is no hash: that is left as it is
      local field, ends = entries[i], tonumber(entries[i + 1])
      if not ends and not string.find(field, '^=') then
        odd = true
      elseif field == REVOKED then
        if call('HSET', tenant_rules, ANY_REVOKED, '1') == 1 then wrong = true end
      elseif not string.find(field, '^[<=*]') and (ends == 0 or ends > now_ms) then
        local any = tonumber(call('HGET', tenant_rules, ANY_USER) or 1) or 1
        if any ~= 0 and (ends == 0 or any < ends) then
          call('HSET', tenant_rules, ANY_USER, whole(ends))
          wrong = true
        end
      end
    end
    if not entries.err then settle(rules) end
    if odd or entries.err then unreadable[#unreadable + 1] = user end
    if wrong or lasts or call('ZSCORE', timed, user) ~= before then mended[#mended + 1] = user end
  end
  settle(tenant_rules)
  return { mended, unreadable }
end
