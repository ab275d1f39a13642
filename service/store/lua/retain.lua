-- Keep windows for longer, so that what counts now goes on counting under a limit whose window has become longer.
--
-- KEYS    windows of one limit
-- ARGV    its window in µs
-- Returns how many of them are kept for longer

local ttl_ms, longer = new_limit(EXACT_UP_TO + 1, number(), 0, false).ttl_ms, 0
for _, window in ipairs(KEYS) do
  local left_ms = call('PTTL', window)
  if left_ms > 0 and left_ms < ttl_ms then longer = longer + call('PEXPIRE', window, ttl_ms) end
end
return longer
