-- Windows: the admissions of each subject under a limit. A window is one string; its numbers are big-endian:
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
--
-- Entries that have run out stay in front until they are a quarter: then the string is written anew, otherwise appended
-- to. All questions of a batch are asked at the same moment: a window that several of them share is read once and
-- written once, and what they are `charged` is a number meanwhile.

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
  return char(floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
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

-- A window as most are, read without being parsed: an exact one with the tick of its limit, in which no more counts
-- than the limit has requests. `from` is where those that count begin. (Eight fields: a ninth doubles the table.)
local function glance_at(key, limit, text)
  local wanted = limit.glanced
  if not wanted then return nil end
  if not text then return { key = key, limit = limit, used = 0, reset_us = 0, charged = 0, from = 9 } end
  local form, a, b, c, d, e, f, g = byte(text, 1, 8)
  local size, length_us, tick_us = #text, limit.length_us, limit.tick_us
  if form ~= wanted or not g or size % 4 ~= 0 then return nil end
  local base_us = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
  local edge = (now_us - length_us - base_us) / tick_us  -- what is not after it has run out
  local at = size - 4 * limit.requests + 1  -- the first of those that count, if the limit is full
  if at < 9 then at = 9 end
  local ticks = at < size and u32(text, at) or -1
  if ticks > edge then
    if at > 9 and u32(text, at - 4) > edge then return nil end
  else
    local low, high = (at - 1) / 4 + 1, size / 4  -- entries, counted as if the head were two
    while low < high do
      local middle = floor((low + high) / 2)
      if u32(text, middle * 4 + 1) > edge then high = middle else low = middle + 1 end
    end
    at = low * 4 + 1
    if at > size then return { key = key, limit = limit, used = 0, reset_us = 0, charged = 0, from = 9 } end
    ticks = u32(text, at)
  end
  local reset_us = base_us + ticks * tick_us + length_us - now_us
  if reset_us > limit.longest_us then return nil end  -- the clock was set back
  return {
    key = key, limit = limit, used = (size - at + 1) / 4, reset_us = reset_us, charged = 0, from = at, text = text,
    base_us = base_us,
  }
end

-- The same for a counted one with the ticks and buckets of its limit, in which something counts, and no more than the
-- limit has requests.
local function glance_at_counted(key, limit, text)
  local form, a, b, c, d, e, f, g = byte(text, 1, 8)
  local size, length_us, tick_us = #text, limit.length_us, limit.tick_us
  if form ~= limit.summed or size < 20 or size % 8 ~= 4 then return nil end
  local base_us = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
  local edge = (now_us - length_us - base_us) / tick_us  -- what is not after it has run out
  local newest = (now_us + limit.width_us + tick_us - 2 - base_us) / tick_us  -- what is later was written by another clock
  local last = u32(text, size - 7)
  if last <= edge or last > newest or newest + 1 >= MODULUS then return nil end
  local at, ticks = 13, u32(text, 13)
  if ticks <= edge then
    local low, high = 1, (size - 20) / 8  -- entries, from 0
    while low < high do
      local middle = floor((low + high) / 2)
      if u32(text, middle * 8 + 13) > edge then high = middle else low = middle + 1 end
    end
    at = low * 8 + 13
    ticks = u32(text, at)
  end
  local used = (u32(text, size - 3) - u32(text, at == 13 and 9 or at - 4)) % MODULUS
  if used == 0 or used > limit.requests or size - at > 24 * BUCKETS then return nil end
  return {
    key = key, limit = limit, used = used, reset_us = base_us + ticks * tick_us + length_us - now_us, charged = 0,
    from = at, text = text, base_us = base_us,
  }
end

local function load(key, limit, text)
  if not text then return empty(key, limit) end
  local is_earlier = (byte(text) or 0) >= FIRST_EARLIER
  local window = parse(key, limit, is_earlier and adopt(text) or text)
  window.changed = is_earlier
  window.gone = count_until(window, 0, now_us - limit.keep_us)
  if window.gone == window.size then return empty(key, limit) end
  window.out = window.gone
  if limit.keep_us > limit.length_us then window.out = count_until(window, window.gone, now_us - limit.length_us) end
  window.used = admitted_after(window, window.out)
  -- The last bucket may not have ended. What is later than that was written before the clock was set back, or the
  -- buckets were wider, or the ticks longer.
  local latest_us = now_us + limit.width_us + math.min(window.tick_us, limit.tick_us) - 2
  local back = time_at(window, window.size) > latest_us
  local counted = not (limit.glanced and window.used <= EXACT_UP_TO)
  local many = counted and (limit.exact and window.out or window.size) - window.gone > 3 * BUCKETS
  -- Nothing counts, but something is kept: the next entry is to be exact, unless that made something count again.
  local meet = window.used == 0 and (now_us - window.base_us) % limit.tick_us > 0
    and time_at(window, window.size) + limit.tick_us + limit.length_us <= now_us
  if many or back or meet or counted ~= window.counted or window.exponent ~= limit.exponent
    or (latest_us + limit.tick_us - window.base_us) / limit.tick_us >= MODULUS then
    window = rebuild(window, counted, back, many, meet)
  end
  if window.used > 0 then
    -- More quota comes when the entry runs out that leaves less than `requests` after it. That is the oldest, unless
    -- more is used than the limit has now.
    local frees, last, requests = window.out + 1, window.size, limit.requests
    while window.used > requests and frees < last do
      local middle = floor((frees + last) / 2)
      if admitted_after(window, middle) < requests then last = middle else frees = middle + 1 end
    end
    window.reset_us = time_at(window, frees) + limit.length_us - now_us
  end
  return window
end

-- The ticks from a window's base to a moment.
local function ticks_to(window, moment_us)
  return ceil((moment_us - window.base_us) / window.limit.tick_us)
end

-- Add what a window is charged. Returns whether its string only becomes longer by that.
local function add(window)
  local size, many = window.size, window.charged
  local count = (count_at(window, size) + many) % MODULUS
  window.size = size + (window.counted and 1 or many)
  if not window.counted then
    window.text = window.text .. rep(pack(ticks_to(window, now_us)), many)
  elseif size > 0 and time_at(window, size) >= now_us then  -- its bucket has not ended
    window.text, window.size = sub(window.text, 1, -5) .. pack(count), size
    return false
  else
    -- The first entry that counts is a bucket of its own, so that the first request gets the whole wait.
    local ends_us = now_us + (window.starts and 0 or window.limit.width_us - 1)
    window.text = window.text .. pack(ticks_to(window, ends_us)) .. pack(count)
  end
  return size > 0
end

-- What windows are written with, and up to how many bytes an exact one is written anew: one command in place of two.
local WRITTEN_WITH, NO_CHANNELS, ANEW_UP_TO = { 'APPEND', 'PEXPIRE', 'SET' }, {}, 256

-- Of this call: why nothing may be written (a kind of error; nil: it may), whether it may write all that windows need,
-- and whether that is to be asked before the first write: a SET alone is written or not.
local refused_writes, sure, careful

-- Raise an error, as text, where something that windows need may not be written.
local function be_sure()
  if sure then return end
  local wrong = refused_writes and refused_writes .. ' redis takes no writes' or lacking(WRITTEN_WITH, NO_CHANNELS)
  if wrong then error(wrong, 0) end
  sure = true
end

local function append_entries(key, limit, entries)
  be_sure()
  call('APPEND', key, entries)
  call('PEXPIRE', key, limit.ttl)
end

-- Write what a counted window is charged that was read without being parsed.
local function save_counted(window, key, limit, text, from)
  local size, base_us, tick_us = #text, window.base_us, limit.tick_us
  local count = pack((u32(text, size - 3) + window.charged) % MODULUS)
  local kept = from == 13 and '' or sub(text, 1, 8) .. sub(text, from - 4, from - 1)
  if base_us + u32(text, size - 7) * tick_us >= now_us then  -- its bucket has not ended
    kept = kept .. sub(text, from == 13 and 1 or from, size - 4) .. count
  else
    local ends = ceil((now_us + limit.width_us - 1 - base_us) / tick_us)
    kept = kept .. (from == 13 and text or sub(text, from)) .. pack(ends) .. count
  end
  call('SET', key, kept, 'PX', limit.ttl)
end

local function save(window)
  local limit, key, charged, text = window.limit, window.key, window.charged, window.text
  if charged == 0 and not window.changed then return end
  if careful then be_sure() end
  if not text then  -- glanced, and nothing was there that counts
    call('SET', key, head(limit.glanced, now_us) .. rep('\0\0\0\0', charged), 'PX', limit.ttl)
    return
  end
  local from, size = window.from, #text
  if from and limit.summed then return save_counted(window, key, limit, text, from) end
  if from then
    local ticks = ceil((now_us - window.base_us) / limit.tick_us)
    if ticks < MODULUS and ticks >= u32(text, size - 3) then
      local entries = pack(ticks)
      if charged > 1 then entries = rep(entries, charged) end
      if from > 9 and (size <= ANEW_UP_TO or (from - 9) * 4 >= size) then
        call('SET', key, sub(text, 1, 8) .. sub(text, from) .. entries, 'PX', limit.ttl)
      elseif size <= ANEW_UP_TO then
        call('SET', key, text .. entries, 'PX', limit.ttl)
      else
        append_entries(key, limit, entries)
      end
      return
    end
    window = load(key, limit, text)  -- the clock was set back, or the base is too long ago
    window.charged = charged
  end
  local before, appended = #window.text, window.charged > 0 and add(window)
  if window.changed or not appended or (window.gone > 0 and window.gone * 4 >= window.size) then
    local start_count = window.counted and pack(count_at(window, window.gone)) or ''
    local kept = sub(window.text, window.offset + window.stride * window.gone)
    call('SET', key, sub(window.text, 1, 8) .. start_count .. kept, 'PX', limit.ttl)
  else
    append_entries(key, limit, sub(window.text, before + 1))
  end
end

-- The windows of this call by their keys, and how many they are.
local opened, open_count = {}, 0

local function start_windows(why_not)
  if open_count > 0 then opened, open_count = {}, 0 end
  refused_writes, sure, careful = why_not, false, why_not ~= nil
end

-- The window at `key` as a limit sees it: what is `used` of it.
local function open(key, limit)
  local window = opened[key]
  if window then
    local as = window.limit
    if as == limit or (as.requests == limit.requests and as.length_us == limit.length_us
        and as.keep_us == limit.keep_us) then
      return window
    end
    careful = true
    save(window)  -- two configurations in one batch: a reload came in between
  else
    open_count = open_count + 1
  end
  local text = call('GET', key)
  if limit.glanced then
    window = glance_at(key, limit, text)
  else
    window = text and limit.summed and glance_at_counted(key, limit, text)
  end
  window = window or load(key, limit, text)
  opened[key] = window
  return window
end

local function charge(window)
  if window.used == 0 then
    local limit = window.limit
    window.starts, window.reset_us = true, limit.length_us
    if window.size and window.size > 0 then  -- after what is kept only: as its entry is going to say
      window.reset_us = window.base_us + ticks_to(window, now_us) * limit.tick_us + limit.length_us - now_us
    end
  end
  window.charged, window.used = window.charged + 1, window.used + 1
end

local function save_windows()
  careful = careful or open_count > 1
  for _, window in pairs(opened) do save(window) end
end
