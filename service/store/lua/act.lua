-- What an operator does to one user: log out, suspend, reinstate, terminate.
--
-- KEYS    record, then the tenant's indexes (record.lua)
-- ARGV    cause, user, by, client address, request id, reason
-- Returns status letter before, and the status letter after or the name of a refusal, and the record

local record_key, indexes = key(), take_indexes()
local cause, user = arg(), arg()
local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

local record = read(record_key)
local from = record.status
local to = MOVES[cause][from]
if NAMES[to] ~= nil and to ~= from then
  move(record_key, indexes, user, record, to, cause, about)
end
return { from, to, record.text }
