-- What operators have set for a tenant or a user, and the time of the clock that decides about its end.
--
-- KEYS    the rules (rules.lua)
-- Returns now ms, then each field and its value

local function run()
  local entries = call('HGETALL', key())
  table.insert(entries, 1, whole(now_ms))
  return entries
end
