-- The form of a window (window.lua): how one is read, and written anew. It is one string; its numbers are big-endian:
--   1 byte    the form and the tick: 16 + k exact, 32 + k counted; a tick is 2^k µs, so that a window has at most 2^30
--   7 bytes   the base, in µs since 1970; the entries count their ticks from there
--   4 bytes   counted only: how many admissions were counted before the first entry (modulo 2^32)
--   then the entries, oldest first, none earlier than the one before it:
--   4 bytes   the time of an admission in ticks after the base, rounded up
--   4 bytes   counted only: how many admissions were counted up to and with this entry (modulo 2^32)
--
-- A limit of up to 1,000 requests is exact: each admission has an entry. Above, a counted window collects admissions in
-- buckets of a hundredth of the window. The time of an entry is the last moment of its bucket, so all of it counts
-- until that has run out: never over, about 1 % less, and constant memory.
--
-- Where an operator has set a shorter window than the configuration's, entries are kept for the configured one, which
-- holds again when the operator lifts the other. Such a window is counted, too: exact for what the limit counts, in
-- hundredths of the configured window for what is older.
--
-- Times are whole, not modulo anything, so that an entry later than now is recognized whatever the distance: the clock
-- was set back. All that is known of its admission is that it has happened, so its time becomes now, at once and for
-- good: no request waits for the clock to catch up, and the answer stays true.

local MODULUS, MOST_TICKS = 4294967296, 1073741824
local EXACT_UP_TO, BUCKETS = 1000, 100
local EXACT, COUNTED, FIRST_EARLIER = 16, 32, 65  -- from the last on: what an earlier version wrote
-- A window's key outlives its last entry by so long: the time to extend it when the limit's window becomes longer
-- (store/admissions/window_retention.py).
local GRACE_MS = 10000

local function u32(text, at)
  local a, b, c, d = byte(text, at, at + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function pack(n)
  local d = n % 256
  n = (n - d) / 256
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return char((n - b) / 256, b, c, d)
end

-- The first 8 bytes of a window.
local function head(form, base_us)
  local high = floor(base_us / MODULUS)
  return char(form, floor(high / 65536), floor(high / 256) % 256, high % 256) .. pack(base_us % MODULUS)
end

-- A limit as its windows need it. `ttl` is its `ttl_ms` as text: Redis would write a number with 17 digits. `configured_us` is the configuration's window, where an operator has set another.
local function new_limit(requests, length_us, configured_us, shadow)
  local keep_us, exact, exponent = math.max(length_us, configured_us), requests <= EXACT_UP_TO, 0
  while keep_us / 2 ^ exponent > MOST_TICKS do exponent = exponent + 1 end
  local tick_us, width_us = 2 ^ exponent, exact and 1 or floor(length_us / BUCKETS)
  local ttl_ms = ceil((keep_us + width_us) / 1000) + GRACE_MS
  return {
    requests = requests, length_us = length_us, keep_us = keep_us, shadow = shadow, exact = exact, exponent = exponent,
    tick_us = tick_us, width_us = width_us, ttl_ms = ttl_ms, ttl = whole(ttl_ms),
    glanced = exact and keep_us == length_us and EXACT + exponent,  -- the form that `glance_at` reads
    summed = not exact and keep_us == length_us and COUNTED + exponent,  -- the form that `glance_at_counted` reads
    longest_us = length_us + tick_us - 1,  -- that an entry of it which is not later than now has left
  }
end

-- What an operator has set in place of a limit's requests and window (s); nothing where the configuration holds.
local function overridden(text)
  if not text then return nil end
  local requests, window = match(text, '^(%d+) (%d+)$')
  return as_number(requests), as_number(window)
end

local function time_at(window, i)
  return window.base_us + u32(window.text, window.offset + window.stride * (i - 1)) * window.tick_us
end

-- How many were admitted up to and with entry `i`, since the count began.
local function count_at(window, i)
  if i == 0 then return window.counted and u32(window.text, 9) or 0 end
  return window.counted and u32(window.text, window.offset + 8 * (i - 1) + 4) or i
end

-- How many were admitted after entry `i`.
local function admitted_after(window, i)
  return (count_at(window, window.size) - count_at(window, i)) % MODULUS
end

-- How many of the entries after `low` are not later than a moment; `low` included.
local function count_until(window, low, moment_us)
  local high = window.size
  if low >= high or time_at(window, low + 1) > moment_us then return low end
  low = low + 1
  while low < high do
    local middle = ceil((low + high) / 2)
    if time_at(window, middle) > moment_us then high = middle - 1 else low = middle end
  end
  return low
end

-- A window from its text. `gone` entries are not kept any more, `out` entries do not count any more.
-- All fields at once: a table that grows field by field is several times slower.
local function parse(key, limit, text)
  local form, a, b, c, d, e, f, g = byte(text, 1, 8)
  if not g or form < EXACT or form >= COUNTED + 16 then error('not a window') end
  local base_us = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
  local counted = form >= COUNTED
  local offset, stride = counted and 13 or 9, counted and 8 or 4
  local size = (#text - offset + 1) / stride
  if size % 1 ~= 0 or size < 0 then error('not a window') end
  return {
    key = key, limit = limit, text = text, counted = counted, exponent = form % 16, tick_us = 2 ^ (form % 16),
    base_us = base_us, offset = offset, stride = stride, size = size, gone = 0, out = 0, used = 0, reset_us = 0,
    charged = 0, changed = false,
  }
end

-- A window that nothing counts in, and nothing is kept of.
local function empty(key, limit)
  local text = head((limit.glanced and EXACT or COUNTED) + limit.exponent, now_us)
  return parse(key, limit, limit.glanced and text or text .. pack(0))
end

-- The text that an earlier version wrote: a capital letter, or a small one and a count, then the same entries; the
-- letter is the tick (A, a: 1 µs), and the times are ticks since 1970, modulo 2^32, rounded down.
local function adopt(text)
  local letter = byte(text)
  local counted = letter >= 97
  local exponent, from, stride = letter - (counted and 97 or 65), counted and 6 or 2, counted and 8 or 4
  if exponent > 15 or (#text - from + 1) % stride ~= 0 then error('not a window') end
  local tick_us = 2 ^ exponent
  local now, base, before, entries = floor(now_us / tick_us), nil, 0, {}
  for at = from, #text, stride do
    local ticks = (now - u32(text, at)) % MODULUS
    if ticks >= 3758096384 then ticks = ticks - MODULUS end  -- an eighth lies ahead: the end of a bucket
    base = base or now - ticks
    before = math.max(before, now - ticks - base)
    entries[#entries + 1] = pack(before) .. (counted and sub(text, at + 4, at + 7) or '')
  end
  local base_us = ((base or now) + 1) * tick_us - 1
  return head((counted and COUNTED or EXACT) + exponent, base_us) .. (counted and sub(text, 2, 5) or '')
    .. table.concat(entries)
end

-- Write a window as its limit wants it, entry by entry, without what is gone. Where the clock was set `back`, what is
-- later than now is now. Where it has too `many` entries, each but the last of a bucket is left out: the count of the
-- last includes theirs. Otherwise no time becomes later than it is, apart from the rounding to a longer tick, or to
-- ticks that `meet` this moment.
local function rebuild(window, counted, back, many, meet)
  local limit, base_us, bucket = window.limit, nil, nil
  local entries, size, before = {}, 0, count_at(window, window.gone)
  local start = counted and pack(before) or ''
  for i = window.gone + 1, window.size do
    local time_us, count = time_at(window, i), count_at(window, i)
    if back and time_us > now_us then time_us = now_us end
    base_us = base_us or time_us + (meet and (now_us - time_us) % limit.tick_us or 0)
    local ticks = math.max(0, ceil((time_us - base_us) / limit.tick_us))
    if counted then
      local old, at = i <= window.out, ticks
      if many then at = floor((time_us - base_us) / (old and limit.keep_us / BUCKETS or limit.width_us)) end
      if old then at = -1 - at end  -- entries that count do not replace those that do not
      if at ~= bucket then bucket, size = at, size + 1 end
      entries[size] = pack(ticks) .. pack(count)
    else
      entries[#entries + 1] = rep(pack(ticks), (count - before) % MODULUS)
    end
    before = count
  end
  local form = (counted and COUNTED or EXACT) + limit.exponent
  local rebuilt = parse(window.key, limit, head(form, base_us) .. start .. table.concat(entries))
  rebuilt.out = count_until(rebuilt, 0, now_us - limit.length_us)
  rebuilt.used, rebuilt.changed = admitted_after(rebuilt, rebuilt.out), true
  return rebuilt
end
