-- Windows: the admissions of each subject under a limit are counted here. Their form is in window_form.lua.
--
-- Entries that have run out stay in front until they are a quarter: then the string is written anew, otherwise appended
-- to. All questions of a batch are asked at the same moment: a window that several of them share is read once and
-- written once, and what they are `charged` is a number meanwhile.

-- Windows that are read without being parsed: one of another form is a table with other fields. The first few of a call
-- are the same tables as in the call before, since a table costs more than all that is read.
local REUSED_UP_TO = 8
local reused, reused_count = {}, 0

-- `from` is where the entries begin that count; `last` has the ticks of the newest entry, `total` its count.
local function glanced(key, limit, text, from, used, reset_us, base_us, last, total)
  reused_count = reused_count + 1
  local window = reused[reused_count]
  if not window then
    window = {
      key = key, limit = limit, text = text, from = from, used = used, reset_us = reset_us, base_us = base_us,
      last = last, total = total, charged = 0,
    }
    if reused_count <= REUSED_UP_TO then reused[reused_count] = window end
    return window
  end
  window.key, window.limit, window.text, window.from, window.used = key, limit, text, from, used
  window.reset_us, window.base_us, window.last, window.total, window.charged = reset_us, base_us, last, total, 0
  return window
end

-- A window as most are: an exact one with the tick of its limit, in which no more counts than the limit has requests.
local function glance_at(key, limit, text)
  if not text then return glanced(key, limit, nil, 9, 0, 0, 0, 0, 0) end
  local form, a, b, c, d, e, f, g, h, i, j, k = byte(text, 1, 12)
  local size, length_us, tick_us = #text, limit.length_us, limit.tick_us
  if form ~= limit.glanced or not g or size % 4 ~= 0 then return nil end
  local base_us = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
  local edge = (now_us - length_us - base_us) / tick_us  -- what is not after it has run out
  local at = size - 4 * limit.requests + 1  -- the first of those that count, if the limit is full
  if at < 9 then at = 9 end
  local ticks, last = -1, -1
  if at < size then
    ticks = at == 9 and ((h * 256 + i) * 256 + j) * 256 + k or u32(text, at)
    last = at == size - 3 and ticks or u32(text, size - 3)
  end
  if ticks > edge then
    if at > 9 and u32(text, at - 4) > edge then return nil end
  else
    local low, high = (at - 1) / 4 + 1, size / 4  -- entries, counted as if the head were two
    while low < high do
      local middle = floor((low + high) / 2)
      if u32(text, middle * 4 + 1) > edge then high = middle else low = middle + 1 end
    end
    at = low * 4 + 1
    if at > size then return glanced(key, limit, nil, 9, 0, 0, 0, 0, 0) end
    ticks = u32(text, at)
  end
  local reset_us = base_us + ticks * tick_us + length_us - now_us
  if reset_us > limit.longest_us then return nil end  -- the clock was set back
  return glanced(key, limit, text, at, (size - at + 1) / 4, reset_us, base_us, last, 0)
end

-- The same for a counted one with the ticks and buckets of its limit, in which something counts, and no more than the
-- limit has requests.
local function glance_at_counted(key, limit, text)
  local form, a, b, c, d, e, f, g, s, t, u, v, w, x, y, z = byte(text, 1, 16)
  local size, length_us, tick_us = #text, limit.length_us, limit.tick_us
  if form ~= limit.summed or size < 20 or size % 8 ~= 4 then return nil end
  local base_us = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
  local edge = (now_us - length_us - base_us) / tick_us  -- what is not after it has run out
  local newest = (now_us + limit.width_us + tick_us - 2 - base_us) / tick_us  -- what is later was written by another clock
  local h, i, j, k, l, m, n, o = byte(text, size - 7, size)
  local last, total = ((h * 256 + i) * 256 + j) * 256 + k, ((l * 256 + m) * 256 + n) * 256 + o
  if last <= edge or last > newest or newest + 1 >= MODULUS then return nil end
  local at, ticks = 13, ((w * 256 + x) * 256 + y) * 256 + z
  local before = ((s * 256 + t) * 256 + u) * 256 + v
  if ticks <= edge then
    local low, high = 1, (size - 20) / 8  -- entries, from 0
    while low < high do
      local middle = floor((low + high) / 2)
      if u32(text, middle * 8 + 13) > edge then high = middle else low = middle + 1 end
    end
    at = low * 8 + 13
    ticks, before = u32(text, at), u32(text, at - 4)
  end
  local used = (total - before) % MODULUS
  if used == 0 or used > limit.requests or size - at > 24 * BUCKETS then return nil end
  local reset_us = base_us + ticks * tick_us + length_us - now_us
  return glanced(key, limit, text, at, used, reset_us, base_us, last, total)
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

-- What windows are written with; up to how many bytes an exact one is written anew: one command in place of two; from
-- how many bytes on the count of a counted one is written alone: Redis keeps a shorter string with less beside it.
local WRITTEN_WITH, NO_CHANNELS, ANEW_UP_TO = { 'APPEND', 'PEXPIRE', 'SET', 'SETRANGE' }, {}, 256
local COUNT_ALONE_FROM = 45
-- Where the count begins in strings of each length, as text: Redis would write a number with 17 digits.
local count_places = {}

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

-- Write what a counted window is charged that was read without being parsed. Where its last bucket has not ended, only the
-- count changes: the bucket ends when it was to end, and so does the key.
local function save_counted(window, key, limit, text, from)
  local size, base_us, tick_us = #text, window.base_us, limit.tick_us
  local count = pack((window.total + window.charged) % MODULUS)
  local goes_on = base_us + window.last * tick_us >= now_us
  if goes_on and from == 13 and size >= COUNT_ALONE_FROM then
    local place = count_places[size]
    if not place then
      place = whole(size - 4)
      count_places[size] = place
    end
    call('SETRANGE', key, place, count)
    return
  end
  local kept = from == 13 and '' or sub(text, 1, 8) .. sub(text, from - 4, from - 1)
  if goes_on then
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
    if ticks < MODULUS and ticks >= window.last then
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

-- The windows of this call by their keys, and how many they are: the first one beside the table, since most calls have one.
local opened, open_count = {}, 0
local first_opened, first_window

local function start_windows()
  if open_count > 1 then opened = {} end
  open_count, first_opened, reused_count = 0, nil, 0
  refused_writes, sure, careful = nil, false, false
end

-- Write nothing in this call: it ends with an error of this kind where something would have to be written.
local function refuse_writes(why_not)
  refused_writes, careful = why_not, true
end

-- The window at `key` as a limit sees it: what is `used` of it.
local function open(key, limit)
  local window
  if key == first_opened then window = first_window elseif open_count > 1 then window = opened[key] end
  local is_new = not window
  if window then
    local as = window.limit
    if as == limit or (as.requests == limit.requests and as.length_us == limit.length_us
        and as.keep_us == limit.keep_us) then
      return window
    end
    careful = true
    save(window)  -- two configurations in one batch: a reload came in between
  end
  local text = call('GET', key)
  if limit.glanced then
    window = glance_at(key, limit, text)
  else
    window = text and limit.summed and glance_at_counted(key, limit, text)
  end
  window = window or load(key, limit, text)
  if is_new then open_count = open_count + 1 end
  if open_count == 1 then first_opened, first_window = key, window
  elseif key == first_opened then first_window = window
  else opened[key] = window end
  return window
end

local function charge(window)
  if window.used == 0 then
    local limit, size = window.limit, window.size
    window.reset_us = limit.length_us
    if size then window.starts = true end
    if size and size > 0 then  -- after what is kept only: as its entry is going to say
      window.reset_us = window.base_us + ticks_to(window, now_us) * limit.tick_us + limit.length_us - now_us
    end
  end
  window.charged, window.used = window.charged + 1, window.used + 1
end

local function save_windows()
  if open_count == 0 then return end
  careful = careful or open_count > 1
  save(first_window)
  if open_count > 1 then
    for _, window in pairs(opened) do save(window) end
  end
end
