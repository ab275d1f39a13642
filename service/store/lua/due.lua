-- Who is due for the sweep, soonest first: a small bite of each kind.
--
-- KEYS    expiring, ending
-- ARGV    now ms by the clock that judges tokens, leeway ms, retention ms, how many of each at most
-- Returns users

local function run()
  local expiring, ending = key(), key()
  local at_ms, leeway, retention, most = number(), number(), number(), number()

  local due = call('ZRANGEBYSCORE', expiring, '-inf', whole(at_ms - leeway), 'LIMIT', 0, most)
  for _, user in ipairs(call('ZRANGEBYSCORE', ending, '-inf', whole(math.min(at_ms, now_ms) - retention), 'LIMIT', 0, most)) do
    due[#due + 1] = user
  end
  return due
end
