-- The users of some tenants that are due for the sweep, soonest first.
--
-- KEYS    for each tenant: expiring, ending
-- ARGV    now ms by the service's clock, retention ms, for how long a token counts at most ms, how many of each at most;
--         for each tenant: leeway ms
-- Returns the users of each tenant

local function run()
  local at_ms, retention, longest, most = number(), number(), number(), number()
  local found = {}
  while arg_at < #ARGV do
    local expiring, ending = key(), key()
    found[#found + 1] = due_in(expiring, ending, at_ms, number(), retention, longest, most)
  end
  return found
end
