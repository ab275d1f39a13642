-- Remove the rules of some users that have ended.
--
-- KEYS    the rules of each, timed rules (rules.lua: the last)
-- ARGV    the service's clock ms: what has ended by both clocks is removed
-- Returns how many users were checked

local function run()
  local over_ms = math.min(now_ms, number())
  for i = 1, #KEYS - 1 do settle(KEYS[i], over_ms) end
  return #KEYS - 1
end
