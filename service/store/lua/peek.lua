-- How much a subject has used of limits, without using any.
--
-- KEYS    the tenant's rules, then the window of each limit
-- ARGV    for each limit: its name, requests, window µs
-- Returns for each limit: used, µs until there is more quota, over (1|0), requests and window s as they hold

local function run()
  local rules = key()
  local answers = {}
  while arg_at < #ARGV do
    local name, requests, configured_us = arg(), number(), number()
    local length_us = configured_us
    local own_requests, own_window = overridden(call('HGET', rules, '=' .. name))
    if own_requests then requests, length_us = own_requests, own_window * 1000000 end
    local at = key()
    local limit = new_limit(requests, length_us, configured_us, false)
    local window = load(at, limit, call('GET', at))  -- whole, however full it is
    local over = window.used >= requests and 1 or 0
    answers[#answers + 1] = { window.used, math.ceil(window.reset_us), over, requests, length_us / 1000000 }
  end
  return answers
end
