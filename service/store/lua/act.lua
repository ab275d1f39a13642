-- An action of an operator on users: log out, suspend, reinstate, terminate.
--
-- KEYS    the tenant's rules, its indexes (record.lua), then for each user its record and its rules
-- ARGV    cause, everywhere (1: the tokens that exist are refused as well), the service's clock ms, the skew that is
--         tolerated ms, by, client address, request id, reason, then each user
-- Returns for each user: status letter before, the status letter after or the name of a refusal ('unreadable': its record
-- is none, or its rules are no hash; the rest of its answer is empty), the record; with
-- `everywhere`, where it was done, the second up to which tokens are refused (else -1), whether that is new (1|0), and
-- by how many seconds the service's clock and Redis's differ

local function run()
  local tenant_rules, indexes = key(), take_indexes()
  local cause, everywhere, service_ms, skew_ms = arg(), arg() == '1', number(), number()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }
  local answers = {}

  -- Whether rules can be read; there may be none. Checked before the first write for a user.
  local function is_hash(rules)
    local said = redis.pcall('HGET', rules, REVOKED)
    return not (type(said) == 'table' and said.err)
  end

  if everywhere and not is_hash(tenant_rules) then
    return redis.error_reply('WRONGTYPE the rules of the tenant are no hash')
  end

  -- Acts on one user. Returns its answer.
  local function act_on(user, record_key, user_rules)
    -- Left to an operator: it does not stop the action on the others.
    if not readable(record_key) or (everywhere and not is_hash(user_rules)) then return { '-', 'unreadable', '', -1, 0, 0 } end
    local record, revoked_s, revokes, apart_s = read(record_key), -1, 0, 0
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
        local newest_s, skew_s
        newest_s, skew_s, apart_s = newest_issue_s(service_ms, skew_ms)
        revoked_s = tonumber(call('HGET', user_rules, REVOKED)) or -1
        if newest_s > revoked_s then
          revoked_s, revokes = newest_s, 1
          revoke(tenant_rules, user_rules, newest_s, skew_s)
          local entry = { 'type', 'revocation', 'change', 'set', 'user', user, 'before', whole(newest_s) }
          emit(indexes.events, entry, about, indexes.trails, user)
        end
      end
    end
    return { from, to, record.text, revoked_s, revokes, apart_s }
  end

  while arg_at < #ARGV do
    answers[#answers + 1] = act_on(arg(), key(), key())
  end
  return answers
end
