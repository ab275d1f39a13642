-- Shared by every verb: the record of a user, its indexes, and the one way to change both.
--
-- A record is a string of at most 44 bytes while times have 13 digits, which Redis embeds in one allocation:
--   "io 1763838000000 1763838000000 1763841600000"
--   status, previous ('-' none), since ms, last seen ms, latest token expiry ms (0 unknown)
-- `MOVES` (cause → from → to, or the name of a refusal) and `NAMES` (letter → status) stand above this
-- text; store/scripts.py writes them from core/sessions.py.

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

-- KEYS and ARGV are read from left to right.
local key_at, arg_at = 0, 0
local function key() key_at = key_at + 1; return KEYS[key_at] end
local function arg() arg_at = arg_at + 1; return ARGV[arg_at] end
local function number() return tonumber(arg()) end

-- Numbers are written whole: Lua's own tostring turns large ones into 1.76e+15.
local function whole(n) return string.format('%.0f', n) end

-- The indexes of a tenant: keys by_logged_in, by_logged_out, by_expired, by_suspended, by_terminated, due, events.
local function take_indexes()
  return { i = key(), o = key(), e = key(), s = key(), t = key(), due = key(), events = key() }
end

local function read(record_key)
  local text = redis.call('GET', record_key)
  if not text then return { status = '-', previous = '-', since = 0, seen = 0, expires = 0 } end
  local status, previous, since, seen, expires = string.match(text, '^(.)(.) (%d+) (%d+) (%d+)$')
  return { status = status, previous = previous, since = tonumber(since), seen = tonumber(seen),
           expires = tonumber(expires) }
end

local function text_of(record)
  if record.status == '-' then return '' end
  return record.status .. record.previous .. ' ' .. whole(record.since) .. ' ' .. whole(record.seen)
    .. ' ' .. whole(record.expires)
end

-- When the sweep has to look at a record again (ms), or nil where it never has to.
local function due_at(record, lifetime)
  if record.status == 'i' then
    return record.expires + lifetime.leeway
  elseif record.status == 'o' or record.status == 'e' then
    return (record.expires > 0 and record.expires or record.since) + lifetime.retention
  end
end

-- Write a record and both of its indexes. A user who was never seen (suspended before the first request) is
-- listed by when the operator acted. `from` is the status letter it was indexed under, '-' for none.
local function write(record_key, indexes, user, record, from, lifetime)
  redis.call('SET', record_key, text_of(record))
  if from ~= record.status and from ~= '-' then redis.call('ZREM', indexes[from], user) end
  redis.call('ZADD', indexes[record.status], whole(record.seen > 0 and record.seen or record.since), user)
  local due = due_at(record, lifetime)
  if due then
    redis.call('ZADD', indexes.due, whole(due), user)
  else
    redis.call('ZREM', indexes.due, user)
  end
end

-- Make the transition from where `record` stands to `to`, and append its one event.
-- `about` holds by, ip, request, reason; an empty one is left out.
local function move(record_key, indexes, user, record, to, cause, lifetime, about)
  local from = record.status
  record.previous, record.status, record.since = from, to, now_ms
  write(record_key, indexes, user, record, from, lifetime)
  local entry = { 'type', 'transition', 'user', user, 'from', NAMES[from], 'to', NAMES[to], 'cause', cause }
  for _, field in ipairs({ 'by', 'ip', 'request', 'reason' }) do
    local value = about[field]
    if value and value ~= '' then entry[#entry + 1] = field; entry[#entry + 1] = value end
  end
  redis.call('XADD', indexes.events, 'MAXLEN', '~', EVENTS_CAP, '*', unpack(entry))
  redis.call('PEXPIRE', indexes.events, EVENTS_TTL_MS)
end
