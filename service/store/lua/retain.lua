-- Extend windows, so that what counts now still counts under a limit whose window has become longer.
--
-- KEYS    windows of one limit
-- ARGV    its window in µs
-- Returns how many of them are kept for longer

local function run()
  local length_us, longer = number(), 0
  local limit = new_limit(EXACT_UP_TO + 1, length_us, length_us, false)

  local function last_of(key)
    local text = call('GET', key)
    local window = parse(key, limit, byte(text) >= FIRST_EARLIER and adopt(text) or text)
    return time_at(window, window.size)
  end

  for _, window in ipairs(KEYS) do
    local left_ms = call('PTTL', window)
    local well, last_us = pcall(last_of, window)
    local ttl_ms = well and limit.ttl_ms + ceil((last_us - now_us) / 1000) or 0
    if left_ms > 0 and left_ms < ttl_ms then longer = longer + call('PEXPIRE', window, whole(ttl_ms)) end
  end
  return longer
end
