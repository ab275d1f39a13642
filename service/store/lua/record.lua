-- Shared by every verb: the record of a user, its indexes, and the one way to change both.
--
-- A record is a string of at most 44 bytes while times have 13 digits, which Redis embeds in one allocation:
--   "io 1763838000000 1763838000000 1763841600000"
--   status, previous ('-' none), since ms, last seen ms, latest token expiry ms (0 unknown)
-- The previous one is in upper case ('_' none) where the token seen last carries no `iat`: no revocation lets such a token pass.
-- and of a few more where a user who is logged out has logged out again: when that was, ms.
-- `MOVES` (cause → from → to, or the name of a refusal) and `NAMES` (letter → status) stand above this
-- text; store/scripts.py writes them from core/sessions.py.

-- Lua that has written is not rolled back. So a script that writes asks first whether it may run everything that it may
-- come to: `NEEDED` is found in its text (store/rights.py). A server that cannot tell (fakeredis) has no rights to lack.
if redis.acl_check_cmd then
  for _, command in ipairs(NEEDED) do
    if not redis.acl_check_cmd(command, KEYS[1]) then
      return redis.error_reply('NOPERM the right to run ' .. command .. ' is missing')
    end
  end
  for _, channel in ipairs(PUBLISHED) do
    if not redis.acl_check_cmd('PUBLISH', channel) then
      return redis.error_reply('NOPERM the right to PUBLISH to ' .. channel .. ' is missing')
    end
  end
end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

-- What a record looks like.
local RECORD = '^[ioest][-_ioestIOEST] %d+ %d+ %d+ ?%d*$'

-- Looked up once: a script runs them hundreds of times.
local KEYS, ARGV, call, byte, find, sub = KEYS, ARGV, redis.call, string.byte, string.find, string.sub

-- KEYS and ARGV are read from left to right.
local key_at, arg_at = 0, 0
local function key() key_at = key_at + 1; return KEYS[key_at] end
local function arg() arg_at = arg_at + 1; return ARGV[arg_at] end
local function number() return tonumber(arg()) end

-- Numbers are written whole: Lua's own tostring turns large ones into 1.76e+15.
local function whole(n) return string.format('%.0f', n) end

-- The indexes of a tenant: keys by_logged_in, by_logged_out, by_expired, by_suspended, by_terminated, expiring, ending, events.
local function take_indexes()
  return { i = key(), o = key(), e = key(), s = key(), t = key(),
           expiring = key(), ending = key(), events = key() }
end

-- What an admission looks at of a record; `complete` adds the rest. `text` is the record as it is written, '' for none.
-- (Places are found by a plain search: a pattern costs ten times as much, and this is asked about every request.)
local function glance(record_key)
  local text = call('GET', record_key)
  if not text then return { text = '', status = '-', previous = '-', since = 0, seen = 0, expires = 0 } end
  local seen_at = find(text, ' ', 4, true) + 1
  local expires_at = find(text, ' ', seen_at, true) + 1
  local again_at = find(text, ' ', expires_at, true) or 0
  return { text = text, status = sub(text, 1, 1), seen = tonumber(sub(text, seen_at, expires_at - 2)),
           expires = tonumber(sub(text, expires_at, again_at - 1)) }
end

local function complete(record)
  if record.since then return record end
  local previous, since, again = string.match(record.text, '^.(.) (%d+) %d+ %d+ ?(%d*)$')
  record.previous, record.since, record.again = string.lower(previous), tonumber(since), tonumber(again)
  if previous == '_' then record.previous = '-' end
  if record.undated == nil then record.undated = record.previous ~= previous end
  return record
end

local function read(record_key) return complete(glance(record_key)) end

-- Whether a record can be read; there may be none. What nobody of ours wrote is one user's error, and no other's.
local function readable(record_key)
  local text = redis.pcall('GET', record_key)
  return not text or not text.err and string.match(text, RECORD) ~= nil
end

-- The moment (ms) from which a leeway or the retention is counted. It is the score in `expiring` (logged_in) or
-- `ending` (logged_out, expired); what is added to it is the configuration's, and may change at any time.
local function counted_from(record)
  return record.status ~= 'i' and record.expires == 0 and record.since or record.expires
end

-- Write a record and all of its indexes. A user who was never seen (suspended before the first request) is
-- listed by when the operator acted. `from` is the status letter it was indexed under, '-' for none.
local function write(record_key, indexes, user, record, from)
  local to = complete(record).status
  local previous = record.previous
  if record.undated then previous = previous == '-' and '_' or string.upper(previous) end
  record.text = to .. previous .. ' ' .. whole(record.since) .. ' ' .. whole(record.seen)
    .. ' ' .. whole(record.expires) .. (record.again and ' ' .. whole(record.again) or '')
  if from ~= to and from ~= '-' then redis.call('ZREM', indexes[from], user) end
  redis.call('ZADD', indexes[to], whole(record.seen > 0 and record.seen or record.since), user)
  if to == 'i' then
    redis.call('ZADD', indexes.expiring, whole(counted_from(record)), user)
  elseif from == 'i' then
    redis.call('ZREM', indexes.expiring, user)
  end
  if to == 'o' or to == 'e' then
    redis.call('ZADD', indexes.ending, whole(counted_from(record)), user)
  elseif from == 'o' or from == 'e' then
    redis.call('ZREM', indexes.ending, user)
  end
  redis.call('SET', record_key, record.text)  -- last: where an index cannot be written, the record still says what was
end

-- Append an event, and wake whoever reads the tenant's stream. `about` holds by, ip, request, reason; an empty one is
-- left out.
local function tell(events, entry, about)
  for _, field in ipairs({ 'by', 'ip', 'request', 'reason' }) do
    local value = about[field]
    if value and value ~= '' then entry[#entry + 1] = field; entry[#entry + 1] = value end
  end
  redis.call('XADD', events, 'MAXLEN', '~', EVENTS_CAP, '*', unpack(entry))
  redis.call('PUBLISH', NEWS, string.match(events, '{(.*)}'))
end

-- Make the transition from where `record` stands to `to`, and append its one event.
local function move(record_key, indexes, user, record, to, cause, about)
  local from = record.status
  record.previous, record.status, record.since, record.again = from, to, now_ms, nil
  write(record_key, indexes, user, record, from)
  tell(indexes.events,
    { 'type', 'transition', 'user', user, 'from', NAMES[from], 'to', NAMES[to], 'cause', cause }, about)
end

-- Remove a record, and the user from every index.
local function forget(record_key, indexes, user)
  redis.call('DEL', record_key)
  for _, index in ipairs({ 'i', 'o', 'e', 's', 't', 'expiring', 'ending' }) do
    redis.call('ZREM', indexes[index], user)
  end
end
