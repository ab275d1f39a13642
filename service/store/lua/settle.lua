-- Take out what has ended of the rules of some users.
--
-- KEYS    the rules of each, timed rules (rules.lua: the last)
-- ARGV    the service's clock ms: what is over by both clocks is taken out
-- Returns how many were looked at

local function run()
  local over_ms = math.min(now_ms, number())
  for i = 1, #KEYS - 1 do settle(KEYS[i], over_ms) end
  return #KEYS - 1
end
