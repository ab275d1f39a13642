-- Shared by every function: the state of a call, the record of a user, its indexes, and the one way to change both.
--
-- All files of this folder make one library, whose chunk runs once, when it is loaded. So functions and tables are made
-- once, and nothing here may depend on what a former call left: `start` resets the state of a call. While the library is
-- being loaded Redis hides `string`, `math`, `redis.call` and the like: `start` looks them up at the first call.
--
-- A record is a string of at most 44 bytes while times have 13 digits, which Redis embeds in one allocation:
--   "io 1763838000000 1763838000000 1763841600000"
--   status, previous ('-' none), since ms, last seen ms, latest token expiry ms (0 unknown)
-- The previous one is in upper case ('_' none) where the token seen last carries no `iat`: no revocation lets such a token pass.
-- and of a few more where a user who is logged out has logged out again: when that was, ms.
-- `MOVES` (cause → from → to, or the name of a refusal) and `NAMES` (letter → status) are above this
-- text; store/scripts.py writes them from core/sessions.py.

-- The state of a call.
local KEYS, ARGV, key_at, arg_at, now_us, now_ms
-- Global functions as locals: an admission calls them often.
local call, acl_check_cmd, sha1hex, as_number, byte, char, find, match, rep, sub, ceil, floor

local function start(keys, argv)
  if not call then
    call, sha1hex, as_number, ceil, floor = redis.call, redis.sha1hex, tonumber, math.ceil, math.floor
    byte, char, find, match, rep, sub = string.byte, string.char, string.find, string.match, string.rep, string.sub
    local succeeded, check = pcall(function() return redis.acl_check_cmd end)
    acl_check_cmd = succeeded and check or false
  end
  KEYS, ARGV, key_at, arg_at = keys, argv, 0, 0
  local clock = call('TIME')
  now_us = clock[1] * 1000000 + clock[2]
  now_ms = (now_us - now_us % 1000) / 1000
end

-- The first right that is missing, as an error's text; nil where nothing is missing. What a function has written is not
-- rolled back, so a function that writes asks this first about every command and channel that it may come to
-- (store/rights.py finds them in its text). A server without that check (fakeredis) lacks no rights.
local function lacking(commands, channels)
  if not acl_check_cmd then return nil end
  for i = 1, #commands do
    if not acl_check_cmd(commands[i], KEYS[1]) then
      return 'NOPERM the right to run ' .. commands[i] .. ' is missing'
    end
  end
  for i = 1, #channels do
    if not acl_check_cmd('PUBLISH', channels[i]) then
      return 'NOPERM the right to PUBLISH to ' .. channels[i] .. ' is missing'
    end
  end
end

-- What a record looks like.
local RECORD = '^[ioest][-_ioestIOEST] %d+ %d+ %d+ ?%d*$'

-- KEYS and ARGV are read from left to right.
local function key() key_at = key_at + 1; return KEYS[key_at] end
local function arg() arg_at = arg_at + 1; return ARGV[arg_at] end
local function number() return as_number(arg()) end

-- Numbers are written whole: Lua's own tostring turns large ones into 1.76e+15.
local function whole(n) return string.format('%.0f', n) end  -- not %d: it rounds other numbers

local INDEXES_LONG = 9

-- The indexes of a tenant, which begin after this place in KEYS: by_logged_in, by_logged_out, by_expired, by_suspended,
-- by_terminated, expiring, ending, events, trails.
local function indexes_after(at)
  return { i = KEYS[at + 1], o = KEYS[at + 2], e = KEYS[at + 3], s = KEYS[at + 4], t = KEYS[at + 5],
           expiring = KEYS[at + 6], ending = KEYS[at + 7], events = KEYS[at + 8], trails = KEYS[at + 9] }
end

local function take_indexes()
  key_at = key_at + INDEXES_LONG
  return indexes_after(key_at - INDEXES_LONG)
end

-- What an admission looks at of a record; `complete` adds the rest. `text` is the record as it is written, '' for none.
-- (Places are found by a plain search: a pattern costs ten times as much, and this is asked about every request.)
local function parse_record(text)
  if not text then return { text = '', status = '-', previous = '-', since = 0, seen = 0, expires = 0 } end
  if #text == 44 and byte(text, 17) == 32 and byte(text, 31) == 32 then  -- as most are
    return { text = text, status = sub(text, 1, 1), seen = as_number(sub(text, 18, 30)),
             expires = as_number(sub(text, 32)) }
  end
  local seen_at = find(text, ' ', 4, true) + 1
  local expires_at = find(text, ' ', seen_at, true) + 1
  local again_at = find(text, ' ', expires_at, true) or 0
  return { text = text, status = sub(text, 1, 1), seen = as_number(sub(text, seen_at, expires_at - 2)),
           expires = as_number(sub(text, expires_at, again_at - 1)) }
end

local function glance(record_key) return parse_record(call('GET', record_key)) end

-- Whether a record with this second byte says that the token seen last carries `iat`.
local function is_dated_by(previous)
  return previous == 45 or previous > 96  -- '-', or a small letter
end

-- The same of a record; there may be none.
local function is_dated(record) return record.text ~= '' and is_dated_by(byte(record.text, 2)) end

local function complete(record)
  if record.since then return record end
  local previous, since, again = match(record.text, '^.(.) (%d+) %d+ %d+ ?(%d*)$')
  record.previous, record.since, record.again = string.lower(previous), as_number(since), as_number(again)
  if previous == '_' then record.previous = '-' end
  if record.undated == nil then record.undated = record.previous ~= previous end
  return record
end

local function read(record_key) return complete(glance(record_key)) end

-- Whether a record can be read; there may be none. One that the service did not write is an error of that user only.
local function readable(record_key)
  local text = redis.pcall('GET', record_key)
  return not text or not text.err and match(text, RECORD) ~= nil
end

-- The moment (ms) from which a leeway or the retention is counted; what is added to it is the configuration's, and may
-- change at any time.
local function counted_from(record)
  return record.status ~= 'i' and record.expires == 0 and record.since or record.expires
end

-- The moment (ms) from which the retention of a user who is logged out or expired is counted: the later of the expiry and
-- the last transition, where a token counts for at most `longest` ms from the last request. A clock that was far ahead and
-- was set back keeps no record: its moments do not count. Needs a complete record.
local function kept_from(record, longest)
  local latest = math.min(math.max(record.seen, record.since), now_ms)
  local ends = math.min(counted_from(record), latest + longest)
  return record.since <= now_ms + longest and math.max(ends, record.since) or ends
end

-- The score of a user in the index of its status. Who was never seen (suspended before the first request) is listed by
-- when the operator acted.
local function last_seen(record) return whole(record.seen > 0 and record.seen or record.since) end

-- A record as it is written.
local function text_of_record(record)
  local previous = record.previous
  if record.undated then previous = previous == '-' and '_' or string.upper(previous) end
  return record.status .. previous .. ' ' .. whole(record.since) .. ' ' .. whole(record.seen)
    .. ' ' .. whole(record.expires) .. (record.again and ' ' .. whole(record.again) or '')
end

-- The score of a user in `expiring`, the one index that every user is in, so that a walk over it finds each: who is
-- logged in is sorted by expiry; all others come after these.
local function place_of(record)
  if record.status == 'i' then return counted_from(record) end
  if record.status == 'o' or record.status == 'e' then return ENDED + math.max(counted_from(record), record.since) end
  return KEPT
end

local function add_due(due, index, low, high, most)
  local users = call('ZRANGEBYSCORE', index, low, high, 'LIMIT', 0, most)
  for i = 1, #users do due[#due + 1] = users[i] end
end

-- Who is due for the sweep, soonest first: at most so many of each kind. Those whose token ends later than one may count
-- are among them: the sweep puts their score right. An earlier version listed in `ending` who is logged out or expired:
-- the sweep lists them in `expiring`.
local function due_in(expiring, ending, at_ms, leeway, retention, longest, most)
  local due = {}
  add_due(due, expiring, '-inf', whole(at_ms - leeway), most)
  add_due(due, expiring, whole(ENDED), whole(ENDED + math.min(at_ms, now_ms) - retention), most)
  add_due(due, expiring, '(' .. whole(ENDED + math.max(at_ms, now_ms) + longest), '(' .. whole(KEPT), most)
  add_due(due, ending, '-inf', '+inf', most)
  return due
end

-- Write a record and all of its indexes. `from` is the status letter it was indexed under, '-' for none.
local function write(record_key, indexes, user, record, from)
  local to = complete(record).status
  record.text = text_of_record(record)
  if from ~= to and from ~= '-' then call('ZREM', indexes[from], user) end
  call('ZADD', indexes[to], last_seen(record), user)
  call('ZADD', indexes.expiring, whole(place_of(record)), user)
  if from == 'o' or from == 'e' then call('ZREM', indexes.ending, user) end  -- an earlier version listed it there
  call('SET', record_key, record.text)  -- last: where an index cannot be written, the record still says what was
end

-- Events about users are linked, so that one user's are found without reading the stream (trail.lua): each names, as
-- `prev`, the one before it about the same bucket of users, of which there are 4,096; `trails` has the newest of each
-- bucket, so that its size does not grow with the number of users. Its field UNLINKED has the newest event that an earlier
-- version had appended before that began: what is not after it is not linked.
local UNLINKED = 'unlinked'
local function bucket_of(user) return sub(sha1hex(user), 1, 3) end

-- Note how far back events are linked: from now on.
local function begin_trails(events, trails)
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  call('HSET', trails, UNLINKED, newest and newest[1] or '0-0')
end

-- Append an event. `about` holds by, ip, request, reason; an empty one is left out. Where it is about a user, `trails`
-- and the user are given as well.
local ABOUT = { 'by', 'ip', 'request', 'reason' }
local function append(events, entry, about, trails, user)
  for i = 1, 4 do
    local value = about[ABOUT[i]]
    if value and value ~= '' then entry[#entry + 1] = ABOUT[i]; entry[#entry + 1] = value end
  end
  local bucket = user and bucket_of(user)
  if bucket then
    local before = call('HMGET', trails, bucket, UNLINKED)
    if not before[2] then begin_trails(events, trails) end
    if before[1] then entry[#entry + 1] = 'prev'; entry[#entry + 1] = before[1] end
  end
  local id = call('XADD', events, 'MAXLEN', '~', EVENTS_CAP, '*', unpack(entry))
  if bucket then call('HSET', trails, bucket, id) end
end

-- Wake the readers of the tenant's stream.
local function wake(events) call('PUBLISH', NEWS, match(events, '{(.*)}')) end

local function emit(events, entry, about, trails, user)
  append(events, entry, about, trails, user)
  wake(events)
end

-- Make the transition of `record` to `to`, and append its one event.
local function move(record_key, indexes, user, record, to, cause, about)
  local from = record.status
  record.previous, record.status, record.since, record.again = from, to, now_ms, nil
  write(record_key, indexes, user, record, from)
  emit(indexes.events,
    { 'type', 'transition', 'user', user, 'from', NAMES[from], 'to', NAMES[to], 'cause', cause }, about,
    indexes.trails, user)
end

local INDEXES = { 'i', 'o', 'e', 's', 't', 'expiring', 'ending' }

-- Remove a record, and the user from every index.
local function forget(record_key, indexes, user)
  call('DEL', record_key)
  for _, index in ipairs(INDEXES) do call('ZREM', indexes[index], user) end
end
