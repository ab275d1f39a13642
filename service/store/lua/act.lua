-- What an operator does to users: log out, suspend, reinstate, terminate.
--
-- KEYS    the tenant's rules, its indexes (record.lua), then for each user its record and its rules
-- ARGV    cause, everywhere (1: the tokens issued until now are refused as well), by, client address, request id, reason,
--         then each user
-- Returns for each user: status letter before, the status letter after or the name of a refusal, the record

local tenant_rules, indexes = key(), take_indexes()
local cause, everywhere = arg(), arg() == '1'
local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }
local answers = {}

while arg_at < #ARGV do
  local user, record_key, user_rules = arg(), key(), key()
  local record = read(record_key)
  local from = record.status
  local to = MOVES[cause][from]
  if NAMES[to] ~= nil then
    if to ~= from then
      move(record_key, indexes, user, record, to, cause, about)
    elseif cause == 'operator_logout' then
      record.again = now_ms
      write(record_key, indexes, user, record, from)
    end
    if everywhere then
      local before_s = math.max(math.floor(now_ms / 1000), tonumber(redis.call('HGET', user_rules, REVOKED) or 0))
      revoke(tenant_rules, user_rules, before_s)
      tell(indexes.events, { 'type', 'revocation', 'change', 'set', 'user', user, 'before', whole(before_s) }, about)
    end
  end
  answers[#answers + 1] = { from, to, record.text }
end
return answers
