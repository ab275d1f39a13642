-- Decide a batch of requests, each by itself: its limits, its user's standing, its transition.
--
-- ARGV    seen_every ms, logout_grace ms, then for each tenant the number of its questions, and for each of them:
--         number of limits, and for each: requests, window µs, shadow (1|0)
--         cause ('' where no user is known: nothing further for this question)
--         user, token expiry ms, passive (1|0), restricted by the configuration (1|0),
--         number of capabilities, each capability, client address, request id
-- KEYS    for each tenant: its restrictions, its indexes (record.lua), and for each question: the window of
--         each limit; and where a user is known its record and its restrictions
-- Returns for each question, in order: a list
--         for each limit: used, µs until there is more quota, over (1|0)
--         and where a user is known and no limit refused: record, status letter before,
--         index of the first restricted capability (0 none)
--         or the text of an error, which is that question's own

local seen_every, grace = number(), number()
local records = {}

-- Errors that are not one question's, but the server's: they are everybody's, and open the circuit breaker.
local SERVERS_OWN = { READONLY = true, OOM = true, MISCONF = true, NOREPLICAS = true }

local function parse_question(tenant)
  local question = { tenant = tenant, limits = {} }
  for i = 1, number() do
    question.limits[i] = { key = key(), requests = number(), length = number(), shadow = arg() == '1' }
  end
  question.cause = arg()
  if question.cause ~= '' then
    question.record_key, question.restrictions = key(), key()
    question.user, question.expires = arg(), number()
    question.passive, question.restricted = arg() == '1', arg() == '1'
    question.capabilities = {}
    for i = 1, number() do question.capabilities[i] = arg() end
    question.ip, question.request = arg(), arg()
  end
  return question
end

local function holds(until_ms)
  return until_ms and (until_ms == '0' or tonumber(until_ms) > now_ms)
end

-- Whether the whole tenant is restricted; asked once in a batch.
local function tenant_is_restricted(tenant, capability)
  local known = tenant.restricted[capability]
  if known == nil then
    known = holds(redis.call('HGET', tenant.restrictions, capability)) or false
    tenant.restricted[capability] = known
  end
  return known
end

local function restricted_index(question)
  if question.restricted then return 1 end
  local any_user_is = tenant_is_restricted(question.tenant, ANY_USER)
  for index, capability in ipairs(question.capabilities) do
    if tenant_is_restricted(question.tenant, capability) then return index end
    if any_user_is and holds(redis.call('HGET', question.restrictions, capability)) then return index end
  end
  return 0
end

-- What becomes of the user. Returns the record after, the status before, and the restricted capability.
local function pass(question)
  local record = records[question.record_key] or read(question.record_key)
  records[question.record_key] = record
  local from = record.status
  local restricted = restricted_index(question)
  -- A request that is refused for a capability had a valid token, so it counts; but it logs nobody out.
  local cause = restricted > 0 and 'request' or question.cause
  local to = MOVES[cause][from]
  if NAMES[to] == nil or (question.passive and cause == 'request') then return record, from, restricted end
  if from == 'o' and cause == 'request' and record.previous ~= 's' and now_ms - record.since < grace then
    to = from
  end
  local later = question.expires > record.expires
  local stale = now_ms - record.seen >= seen_every
  if later then record.expires = question.expires end
  if to ~= from then
    record.seen = now_ms
    local about = { by = 'user', ip = question.ip, request = question.request }
    move(question.record_key, question.tenant.indexes, question.user, record, to, cause, about)
  elseif later or stale then
    if stale then record.seen = now_ms end
    write(question.record_key, question.tenant.indexes, question.user, record, from)
  end
  return record, from, restricted
end

local function decide(question)
  local windows, refused = {}, false
  for i, limit in ipairs(question.limits) do
    windows[i] = open(limit.key, limit.requests, limit.length)
    if windows[i].over and not limit.shadow then refused = true end
  end
  local answer = {}
  for _, window in ipairs(windows) do
    if not refused and not window.over then charge(window) end
    answer[#answer + 1] = window.used
    answer[#answer + 1] = reset_of(window)
    answer[#answer + 1] = window.over and 1 or 0
  end
  if question.cause ~= '' and not refused then
    local record, from, restricted = pass(question)
    answer[#answer + 1] = record.text
    answer[#answer + 1] = from
    answer[#answer + 1] = restricted
  end
  return answer
end

local answers = {}
while arg_at < #ARGV do
  local questions = number()
  local tenant = { restrictions = key(), indexes = take_indexes(), restricted = {} }
  for _ = 1, questions do
    local question = parse_question(tenant)
    local well, answer = pcall(decide, question)
    if not well then
      answer = tostring(type(answer) == 'table' and answer.err or answer)
      if SERVERS_OWN[string.match(answer, '^-?(%u+)')] then return redis.error_reply(answer) end
    end
    answers[#answers + 1] = answer
  end
end
save_windows()
return answers
