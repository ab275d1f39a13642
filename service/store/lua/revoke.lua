-- Revoke the tokens of a tenant or a user that were issued up to a moment, or lift that. An earlier moment than the one
-- that is set changes nothing, unless it replaces it.
--
-- KEYS    the tenant's rules, events and trails; for a user, its own rules after them; timed rules (rules.lua: the last)
-- ARGV    before: ms since the epoch ('now': all tokens that exist; '' lifts), the service's clock ms, the skew that is
--         tolerated ms, replace (1|0), user ('' for the tenant), by, client address, request id, reason
-- Returns whether something changed (1|0), the second up to which tokens are refused then (-1: none are), the latest
-- moment ms that is allowed where `before` is later: then nothing is done (0: it is not), and by how many seconds the
-- service's clock and Redis's differ, where `before` is 'now'

local function run()
  local tenant_rules, events, trails = key(), key(), key()
  local user_rules = #KEYS > 4 and key() or nil
  local before, service_ms, skew_ms, replace, user = arg(), number(), number(), arg() == '1', arg()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

  local rules = user_rules or tenant_rules
  local held_s = tonumber(call('HGET', rules, REVOKED))
  local before_s, skew_s
  local apart_s = 0
  if before == 'now' then
    before_s, skew_s, apart_s = newest_issue_s(service_ms, skew_ms)
  elseif before ~= '' then
    local latest_ms = math.max(now_ms, service_ms) + skew_ms
    if tonumber(before) > latest_ms then return { 0, held_s or -1, latest_ms, 0 } end
    before_s, skew_s = math.floor(tonumber(before) / 1000), 0
  end
  if before_s and held_s and (held_s == before_s or (held_s > before_s and not replace)) then
    return { 0, held_s, 0, apart_s }
  end

  local entry = { 'type', 'revocation', 'change', before_s and 'set' or 'lifted' }
  if user ~= '' then entry[#entry + 1] = 'user'; entry[#entry + 1] = user end
  local changed
  if before_s then
    changed = true
    revoke(tenant_rules, user_rules, before_s, skew_s)
    entry[#entry + 1] = 'before'; entry[#entry + 1] = whole(before_s)
  else
    changed = call('HDEL', rules, REVOKED) == 1
    call('HDEL', rules, REVOKED_SKEW)
    settle(rules)
  end
  if changed then emit(events, entry, about, trails, user_rules and user) end
  return { changed and 1 or 0, before_s or -1, 0, apart_s }
end
