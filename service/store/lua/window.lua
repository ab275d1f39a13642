-- Windows: what each subject was admitted to under a limit. A window is one string:
--   a capital letter, and an entry of 4 bytes for each admission: its time. Exact; for limits of up to 1,000.
--   a small letter, a count, and an entry of 8 bytes for each of about a hundred buckets: its last moment, and
--       how many were admitted up to then since the count began (modulo 2^32). All of a bucket counts until its
--       last moment runs out: never over, about 1 % less, and constant memory; for limits above 1,000.
-- Entries stand oldest first, so both kinds are read by the same binary searches. Times are in ticks, modulo 2^32:
-- of 1 µs for windows of up to 18 minutes ('A', 'a'), and of twice as much with each further letter, so that a
-- window has at most 2^30 ticks. Entries that have run out stay in front until they are a quarter: then the string
-- is written anew, otherwise appended to.
--
-- All questions of a batch are asked at the same moment: a window that several of them share is read once, what
-- they are `charged` is a number meanwhile, and written once.

local MODULUS, AHEAD, MOST_TICKS = 4294967296, 3758096384, 1073741824
local EXACT_UP_TO, BUCKETS = 1000, 100
local CAPITAL, SMALL = 65, 97

local function u32(text, at)
  local a, b, c, d = byte(text, at, at + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function pack(n)
  return string.char(math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
end

-- Ticks since the entry at a place of the text. Negative for one that lies ahead: a bucket that has not ended, or a
-- clock set back (by up to an eighth of the modulus: nine minutes where a tick is 1 µs).
local function ticks_since(now, text, at)
  local ticks = (now - u32(text, at)) % MODULUS
  return ticks < AHEAD and ticks or ticks - MODULUS
end

local function age(window, i)
  return ticks_since(window.now, window.text, window.offset + window.stride * (i - 1))
end

-- How many were admitted up to and with entry `i`, since the count began.
local function count_at(window, i)
  if i == 0 then return window.base end
  return window.exact and i or u32(window.text, window.offset + 8 * (i - 1) + 4)
end

-- How many were admitted after entry `i`.
local function admitted_after(window, i)
  return (count_at(window, window.size) - count_at(window, i)) % MODULUS
end

-- The first entry from `low` on for which `is_so` holds; `size + 1` where there is none.
local function first(window, low, is_so)
  local high = window.size + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_so(middle) then high = middle else low = middle + 1 end
  end
  return low
end

local function head(window, base)
  return string.char((window.exact and CAPITAL or SMALL) + window.exponent) .. (window.exact and '' or pack(base))
end

-- A limit as its windows need it: how long its ticks are, how many of them an entry counts (`length`; where a tick
-- is longer than Redis's own, one more, so that no part of one is missed), and what the time is in them.
local function measure(limit, exponent)
  limit.exponent, limit.tick_us = exponent, 2 ^ exponent
  limit.length = math.ceil(limit.length_us / limit.tick_us) + (exponent > 0 and 1 or 0)
  limit.now, limit.passed_us = math.floor(now_us / limit.tick_us) % MODULUS, now_us % limit.tick_us
  return limit
end

local function new_limit(requests, length_us, shadow)
  local exponent = 0
  while length_us / 2 ^ exponent > MOST_TICKS do exponent = exponent + 1 end
  local limit = { requests = requests, length_us = length_us, shadow = shadow, exact = requests <= EXACT_UP_TO }
  return measure(limit, exponent)
end

-- What an operator has set in place of a limit's requests and window (s); nothing where the configuration holds.
local function overridden(text)
  if not text then return nil end
  local requests, window = string.match(text, '^(%d+) (%d+)$')
  return tonumber(requests), tonumber(window)
end

-- A window from its text, '' for an empty one of this kind; `anew` says that it has to be written whole.
-- All fields at once: a table that grows field by field is several times slower.
local function parse(key, limit, text, exact, exponent)
  local window = {
    key = key, limit = limit, text = text, exact = exact, exponent = exponent, anew = text == '', base = 0, size = 0,
    now = limit.now, tick_us = limit.tick_us, length = limit.length, offset = exact and 2 or 6,
    stride = exact and 4 or 8, gone = 0, charged = 0, pending = 0, used = 0, reset_us = 0,
  }
  if exponent ~= limit.exponent then
    local scale = measure({ length_us = limit.length_us }, exponent)
    window.now, window.tick_us, window.length = scale.now, scale.tick_us, scale.length
  end
  if text == '' then
    window.text = head(window, 0)
  else
    window.size = (#text - window.offset + 1) / window.stride
    if window.size % 1 ~= 0 or exponent > 31 then error('not a window') end
    if not exact then window.base = u32(text, 2) end
  end
  return window
end

local function append(window, tick, many)
  local entry = pack(tick % MODULUS)
  if window.exact then
    entry = string.rep(entry, many)
  else
    entry = entry .. pack((count_at(window, window.size) + many) % MODULUS)
  end
  window.text, window.pending = window.text .. entry, window.pending + #entry
  window.size = window.size + #entry / window.stride
end

-- The limit was changed: from one kind to the other, or to a window of longer or shorter ticks. Rounded so that
-- nothing runs out too early.
local function convert(window, exact)
  local converted = parse(window.key, window.limit, '', exact, window.limit.exponent)
  for i = window.gone + 1, window.size do
    local many = (count_at(window, i) - count_at(window, i - 1)) % MODULUS
    local ticks = math.floor(age(window, i) * window.tick_us / converted.tick_us)
    append(converted, converted.now - ticks, many)
  end
  converted.used = window.used
  return converted
end

-- µs until there is more quota: until the entry runs out that leaves less than `requests` after it. That is the
-- oldest, unless the limit was lowered below what is used.
local function reset_from(window)
  local frees, requests = window.gone + 1, window.limit.requests
  if window.used > requests then
    frees = first(window, frees, function(i) return admitted_after(window, i) < requests end)
  end
  local reset_us = (window.length - age(window, frees)) * window.tick_us - now_us % window.tick_us
  return window.exact and math.min(reset_us, window.limit.length_us) or reset_us
end

-- A window as most are, told without being parsed: an exact one that is empty, or of which nothing has run out, or that
-- is full all the same (where the clock was set back that may refuse what a search would admit, until the told time: never
-- the other way round).
local function glance_at(key, limit, text)
  if not limit.exact then return nil end
  if not text then return { key = key, limit = limit, used = 0, reset_us = 0, charged = 0, glanced = true, anew = true } end
  local at = #text - 4 * limit.requests + 1  -- the entry that has to run out: of those that count the first
  if at < 2 then at = 2 end
  local used, ticks = (#text - at + 1) / 4, ticks_since(limit.now, text, at)
  if used % 1 ~= 0 or byte(text) ~= CAPITAL + limit.exponent or ticks >= limit.length then return nil end
  if at > 2 and ticks_since(limit.now, text, at - 4) < limit.length then return nil end
  local reset_us = (limit.length - ticks) * limit.tick_us - limit.passed_us
  if reset_us > limit.length_us then reset_us = limit.length_us end
  return { key = key, limit = limit, used = used, reset_us = reset_us, charged = 0, glanced = true }
end

local function save_glanced(window)
  local limit = window.limit
  local entries = string.rep(pack(limit.now), window.charged)
  local ttl = math.floor(limit.length * limit.tick_us / 1000) + 1000
  if window.anew then
    call('SET', window.key, head(limit, 0) .. entries, 'PX', ttl)
  else
    call('APPEND', window.key, entries)
    call('PEXPIRE', window.key, ttl)
  end
end

local function load(key, limit, text)
  if not text then return parse(key, limit, '', limit.exact, limit.exponent) end
  local kind = string.byte(text)
  local exact = kind < SMALL
  local window = parse(key, limit, text, exact, kind - (exact and CAPITAL or SMALL))
  if age(window, 1) >= window.length then
    window.gone = first(window, 2, function(i) return age(window, i) < window.length end) - 1
  end
  window.used = admitted_after(window, window.gone)
  local wanted = limit.exact and (exact or window.used <= EXACT_UP_TO)
  if wanted ~= exact or window.exponent ~= limit.exponent then window = convert(window, wanted) end
  if window.used > 0 then window.reset_us = reset_from(window) end
  return window
end

local function save(window)
  if window.charged == 0 then return end
  if window.glanced then return save_glanced(window) end
  local width = window.exact and 0 or math.max(1, math.floor(window.length / BUCKETS))
  if not window.exact and window.size > window.gone and age(window, window.size) <= 0 then  -- its bucket has not ended
    local count = (count_at(window, window.size) + window.charged) % MODULUS
    window.text, window.anew = string.sub(window.text, 1, -5) .. pack(count), true
  else
    append(window, window.now + math.max(0, width - 1), window.charged)
  end
  local ttl = math.floor((window.length + width) * window.tick_us / 1000) + 1000
  local mostly_gone = window.gone * 4 >= window.size or age(window, 1) > window.length * 1.5
  if window.anew or (window.gone > 0 and mostly_gone) then
    local kept = string.sub(window.text, window.offset + window.stride * window.gone)
    redis.call('SET', window.key, head(window, count_at(window, window.gone)) .. kept, 'PX', ttl)
  else
    redis.call('APPEND', window.key, string.sub(window.text, -window.pending))
    redis.call('PEXPIRE', window.key, ttl)
  end
end

local opened = {}

-- The window at `key` as a limit sees it: what is `used` of it.
local function open(key, limit)
  local window = opened[key]
  if window and window.limit.requests == limit.requests and window.limit.length_us == limit.length_us then
    return window
  end
  if window then save(window) end  -- two configurations in one batch: a reload came in between
  local text = call('GET', key)
  window = glance_at(key, limit, text) or load(key, limit, text)
  opened[key] = window
  return window
end

local function charge(window)
  if window.used == 0 then window.reset_us = window.limit.length_us end
  window.charged, window.used = window.charged + 1, window.used + 1
end

local function save_windows()
  for _, window in pairs(opened) do save(window) end
end
