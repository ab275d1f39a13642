-- Refuse the tokens that were issued up to a moment, of a tenant or a user; or lift that.
--
-- KEYS    the tenant's rules and events; for a user, its own rules after them (rules.lua)
-- ARGV    before: seconds since the epoch ('now': this second; '' lifts), user ('' for the tenant), by, client address,
--         request id, reason
-- Returns the second up to which tokens are refused; false where that was lifted

local tenant_rules, events, user_rules = key(), key(), key()
local before, user = arg(), arg()
local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

local before_s = before == 'now' and math.floor(now_ms / 1000) or tonumber(before)
local entry = { 'type', 'revocation', 'change', before_s and 'set' or 'lifted' }
if user ~= '' then entry[#entry + 1] = 'user'; entry[#entry + 1] = user end
local changed
if before_s then
  changed = redis.call('HGET', user_rules or tenant_rules, REVOKED) ~= whole(before_s)
  revoke(tenant_rules, user_rules, before_s)
  entry[#entry + 1] = 'before'; entry[#entry + 1] = whole(before_s)
else
  changed = redis.call('HDEL', user_rules or tenant_rules, REVOKED) == 1
  settle(user_rules or tenant_rules)
end
if changed then tell(events, entry, about) end
return before_s and before_s or false
