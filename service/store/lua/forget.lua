-- Forget a user: the record, and its entries in the indexes. What operators have set for it stays.
--
-- KEYS    the tenant's indexes (record.lua), the record
-- ARGV    user, by, client address, request id, reason
-- Returns the status letter before; a terminated user ('t') cannot be forgotten

local function run()
  local indexes, record_key = take_indexes(), key()
  local user = arg()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

  local from = read(record_key).status
  if from ~= '-' and from ~= 't' then
    forget(record_key, indexes, user)
    emit(indexes.events, { 'type', 'forgotten', 'user', user, 'from', NAMES[from] }, about, indexes.trails, user)
  end
  return from
end
