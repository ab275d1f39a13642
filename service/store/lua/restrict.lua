-- Restrict a tenant or a user from a capability, or lift that. A change appends an event. A restriction that lasts longer
-- than this one stays as it is, unless this one replaces it.
--
-- KEYS    the tenant's rules, events and trails; for a user, its own rules after them; timed rules (rules.lua: the last)
-- ARGV    capability, until ms (0: until lifted; -1: lift now), replace (1|0), user ('' for the tenant), by, client
--         address, request id, reason
-- Returns whether something changed (1|0), and until when the restriction holds then (-1: there is none; -2: nothing was
-- done, because it would have ended already)

local function run()
  local tenant_rules, events, trails = key(), key(), key()
  local user_rules = #KEYS > 4 and key() or nil
  local capability, until_ms, replace, user = arg(), number(), arg() == '1', arg()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

  local rules = user_rules or tenant_rules
  if until_ms > 0 and until_ms <= now_ms then return { 0, -2 } end
  local held = tonumber(call('HGET', rules, capability))
  if held and held > 0 and held <= now_ms then held = nil end  -- over, and not yet removed
  local changed = 1
  if until_ms < 0 then
    changed = held and 1 or 0
    call('HDEL', rules, capability)
  elseif held and (held == until_ms or (not replace and (held == 0 or (until_ms > 0 and held > until_ms)))) then
    return { 0, held }
  else
    call('HSET', rules, capability, whole(until_ms))
  end
  if user_rules and until_ms >= 0 then
    local any = tonumber(call('HGET', tenant_rules, ANY_USER) or 1)
    local for_good = any == 0 or until_ms == 0
    call('HSET', tenant_rules, ANY_USER, for_good and '0' or whole(math.max(any, until_ms)))
    settle(tenant_rules)
  end
  settle(rules)
  if changed == 1 then
    local entry = { 'type', 'restriction', 'capability', capability, 'change', until_ms < 0 and 'lifted' or 'set' }
    if user ~= '' then entry[#entry + 1] = 'user'; entry[#entry + 1] = user end
    if until_ms > 0 then entry[#entry + 1] = 'until'; entry[#entry + 1] = whole(until_ms) end
    emit(events, entry, about, trails, user_rules and user)
  end
  return { changed, until_ms }
end
