-- Work off one bite of users that are due, and read who is due next: expire those whose token ran out, remove those past
-- retention. Idempotent: its current record decides about each user, so two sweepers do no harm. The service's clock,
-- which decides about tokens, decides what is due: by Redis's a user whose token is still accepted could be expired,
-- again and again. A record is removed once the retention is over by both clocks, so that one clock that is far ahead
-- removes nobody. Each index is written once for the whole bite, before the records, and one message announces all events.
--
-- KEYS    the tenant's indexes (record.lua), then the record of each user
-- ARGV    now ms by the service's clock, leeway ms, retention ms, for how long a token counts at most ms, how many
--         users of each kind to return at most, then each user
-- Returns how many expired, how many were removed, of how many the record cannot be read, and who is due next

-- Users, and with a score before each where they are added to an index, in one command.
local function change(command, index, entries)
  if #entries > 0 then call(command, index, unpack(entries)) end
end

local EVENT = {
  'type', 'transition', 'user', '', 'from', NAMES.i, 'to', NAMES[MOVES.expiry.i], 'cause', 'expiry', 'by', 'sweep',
}

-- Append the event of each user that expired, linked as `append` does; what links them is read and written once.
local function append_events(events, trails, users)
  local buckets = {}
  for i, user in ipairs(users) do buckets[i] = bucket_of(user) end
  buckets[#users + 1] = UNLINKED
  local newest, found, changed = {}, call('HMGET', trails, unpack(buckets)), {}
  if not found[#buckets] then begin_trails(events, trails) end
  for i, user in ipairs(users) do
    local bucket = buckets[i]
    local before = newest[bucket] or found[i] or nil
    EVENT[4], EVENT[13], EVENT[14] = user, before and 'prev', before
    newest[bucket] = call('XADD', events, 'MAXLEN', '~', EVENTS_CAP, '*', unpack(EVENT, 1, before and 14 or 12))
  end
  for bucket, id in pairs(newest) do changed[#changed + 1] = bucket; changed[#changed + 1] = id end
  call('HSET', trails, unpack(changed))
  wake(events)
end

local function run()
  local indexes, first = take_indexes(), key_at
  local at_ms, leeway, retention, longest, most = number(), number(), number(), number(), number()
  local users, texts = {}, {}
  for i = 6, #ARGV do users[i - 5] = ARGV[i] end
  if #users > 0 then texts = call('MGET', unpack(KEYS, first + 1)) end
  local to, since, both_ms = MOVES.expiry.i, whole(now_ms), math.min(at_ms, now_ms)
  local judged, unreadable, wrong, gone, gone_keys = {}, 0, {}, {}, {}
  local expired, expired_keys, expired_texts, seen, ended = {}, {}, {}, {}, {}

  for i, user in ipairs(users) do
    local record_key, text = KEYS[first + i], texts[i]
    local record = text and match(text, RECORD) and parse_record(text)
    if judged[user] then
      -- It is due by both indexes: once is enough.
    elseif not record and (text or call('EXISTS', record_key) == 1) then
      unreadable = unreadable + 1  -- left to `rollcall repair`: it keeps nobody else from being swept
      wrong[#wrong + 1] = user
    elseif not record then
      forget(record_key, indexes, user)
    elseif record.status == 'i' and record.expires + leeway <= at_ms then
      -- As `move` would write it; the times are taken over as they are spelled.
      local undated, rest, seen_ms = match(text, '^.(.) %d+( (%d+) %d+)')
      local at = #expired + 1
      expired[at], expired_keys[at] = user, record_key
      expired_texts[at] = to .. (find(undated, '[_A-Z]') and 'I' or 'i') .. ' ' .. since .. rest
      seen[2 * at - 1], seen[2 * at] = record.seen > 0 and seen_ms or since, user
      ended[2 * at - 1], ended[2 * at] = whole(ENDED + math.max(record.expires, now_ms)), user
    elseif (record.status == 'o' or record.status == 'e')
        and kept_from(complete(record), longest) + retention <= both_ms then
      gone[#gone + 1], gone_keys[#gone_keys + 1] = user, record_key
    else
      -- It was not due: an index is wrong, or an earlier version wrote it, so both are corrected.
      call('ZREM', indexes.expiring, user)
      call('ZREM', indexes.ending, user)
      write(record_key, indexes, user, record, record.status)
      if record.status == 'o' or record.status == 'e' then
        call('ZADD', indexes.expiring, whole(ENDED + kept_from(record, longest)), user)
      end
    end
    judged[user] = true
  end

  change('ZADD', indexes[to], seen)
  change('ZADD', indexes.expiring, ended)
  change('ZREM', indexes.i, expired)
  for i = 1, #expired do call('SET', expired_keys[i], expired_texts[i]) end
  if #expired > 0 then append_events(indexes.events, indexes.trails, expired) end
  if #gone > 0 then
    call('DEL', unpack(gone_keys))
    for _, index in ipairs(INDEXES) do call('ZREM', indexes[index], unpack(gone)) end
  end
  change('ZREM', indexes.expiring, wrong)
  change('ZREM', indexes.ending, wrong)
  return { #expired, #gone, unreadable, due_in(indexes.expiring, indexes.ending, at_ms, leeway, retention, longest, most) }
end
