-- Work off one bite of users that are due: expire those whose token ran out, remove those past retention.
-- Idempotent: each user is judged by its record as it stands now, so two sweepers do no harm.
--
-- KEYS    the tenant's indexes (record.lua), then the record of each user
-- ARGV    leeway ms, retention ms, then each user
-- Returns how many expired, how many were removed

local indexes = take_indexes()
local lifetime = { leeway = number(), retention = number() }
local expired, removed = 0, 0

local function forget(record_key, user)
  redis.call('DEL', record_key)
  for _, letter in ipairs({ 'i', 'o', 'e', 's', 't' }) do redis.call('ZREM', indexes[letter], user) end
  redis.call('ZREM', indexes.due, user)
end

while arg_at < #ARGV do
  local record_key, user = key(), arg()
  local record = read(record_key)
  local due = due_at(record, lifetime)
  if record.status == '-' then
    forget(record_key, user)
  elseif due == nil then
    redis.call('ZREM', indexes.due, user)
  elseif due > now_ms then
    redis.call('ZADD', indexes.due, whole(due), user)
  elseif record.status == 'i' then
    move(record_key, indexes, user, record, MOVES.expiry.i, 'expiry', lifetime, { by = 'sweep' })
    expired = expired + 1
  else
    forget(record_key, user)
    removed = removed + 1
  end
end
return { expired, removed }
