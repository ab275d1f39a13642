-- Work off one bite of users that are due: expire those whose token ran out, remove those past retention.
-- Idempotent: each user is judged by its record as it stands now, so two sweepers do no harm. What is due is judged by the
-- service's clock, which judges tokens: by Redis's a user whose token is still accepted could be expired, again and again.
-- A record is removed once the retention is over by both clocks, so that one clock that is far ahead removes nobody.
--
-- KEYS    the tenant's indexes (record.lua), then the record of each user
-- ARGV    now ms by the clock that judges tokens, leeway ms, retention ms, then each user
-- Returns how many expired, how many were removed, and of how many the record cannot be read

local function run()
  local indexes = take_indexes()
  local at_ms, leeway, retention = number(), number(), number()
  local expired, removed, unreadable = 0, 0, 0

  while arg_at < #ARGV do
    local record_key, user = key(), arg()
    local well = readable(record_key)
    local record = well and read(record_key)
    local status = well and record.status
    if not well then
      -- Left to `rollcall repair`: it keeps nobody else from being swept.
      call('ZREM', indexes.expiring, user)
      call('ZREM', indexes.ending, user)
      unreadable = unreadable + 1
    elseif status == '-' then
      forget(record_key, indexes, user)
    elseif status == 'i' and counted_from(record) + leeway <= at_ms then
      move(record_key, indexes, user, record, MOVES.expiry.i, 'expiry', { by = 'sweep' })
      expired = expired + 1
    elseif (status == 'o' or status == 'e') and counted_from(record) + retention <= math.min(at_ms, now_ms) then
      forget(record_key, indexes, user)
      removed = removed + 1
    else
      -- It was not due: an index says so wrongly, so both are put right.
      call('ZREM', indexes.expiring, user)
      call('ZREM', indexes.ending, user)
      write(record_key, indexes, user, record, status)
    end
  end
  return { expired, removed, unreadable }
end
