-- The users that are due for the sweep, soonest first.
--
-- KEYS    expiring, ending
-- ARGV    now ms by the service's clock, leeway ms, retention ms, for how long a token counts at most ms, how many of
--         each at most
-- Returns users

local function run()
  local expiring, ending = key(), key()
  local at_ms, leeway, retention, longest, most = number(), number(), number(), number(), number()
  return due_in(expiring, ending, at_ms, leeway, retention, longest, most)
end
