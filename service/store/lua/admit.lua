-- Decide a batch of requests, each by itself: its limits, its user's standing, its transition.
--
-- ARGV    seen_every ms, logout_grace ms, then for each question:
--         number of limits, and for each: requests, window µs, shadow (1|0)
--         cause ('' where no user is known: nothing further for this question)
--         user, token expiry ms, passive (1|0), restricted by the configuration (1|0),
--         number of capabilities, each capability, client address, request id
-- KEYS    for each question: the window of each limit; and where a user is known its record,
--         its restrictions, the tenant's restrictions, the tenant's indexes (record.lua)
-- Returns for each question, in order: a list
--         for each limit: used, µs until there is more quota, over (1|0)
--         and where a user is known and no limit refused: record, status letter before,
--         index of the first restricted capability (0 none)
--         or the text of an error, which is that question's own

local seen_every, grace = number(), number()

local function parse()
  local question = { windows = {} }
  for i = 1, number() do
    question.windows[i] = { key = key(), requests = number(), length = number(), shadow = arg() == '1' }
  end
  question.cause = arg()
  if question.cause ~= '' then
    question.record_key, question.user_no, question.tenant_no = key(), key(), key()
    question.indexes = take_indexes()
    question.user, question.expires = arg(), number()
    question.passive, question.restricted = arg() == '1', arg() == '1'
    question.capabilities = {}
    for i = 1, number() do question.capabilities[i] = arg() end
    question.about = { by = 'user', ip = arg(), request = arg() }
  end
  return question
end

-- How many entries of a window (oldest first) lie at or before `horizon`: a binary search, since a window
-- that was left alone may have run out by hundreds.
local function run_out(window, size, horizon)
  local low, high = 1, size
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', window.key, middle)) <= horizon then low = middle + 1 else high = middle end
  end
  return low
end

-- Look at a window: drop what has run out, count what is left.
local function look(window)
  local oldest = redis.call('LINDEX', window.key, 0)
  window.used = 0
  if oldest then
    local horizon = now_us - window.length
    window.used = redis.call('LLEN', window.key)
    window.oldest = tonumber(oldest)
    if window.oldest <= horizon then
      local gone = run_out(window, window.used, horizon)
      redis.call('LTRIM', window.key, gone, -1)
      window.used, window.oldest = window.used - gone, nil
    end
  end
  window.over = window.used >= window.requests
end

local function charge(window)
  redis.call('RPUSH', window.key, whole(now_us))
  redis.call('PEXPIRE', window.key, math.floor(window.length / 1000) + 1000)
  if window.used == 0 then window.oldest = now_us end
  window.used = window.used + 1
end

-- µs until the window has more quota: until the entry runs out that stands `requests` from the end
-- (the oldest, unless the limit was lowered below what is used).
local function reset_of(window)
  if window.used == 0 then return 0 end
  local at = math.max(0, window.used - window.requests)
  local entry = at == 0 and window.oldest or tonumber(redis.call('LINDEX', window.key, at))
  return entry + window.length - now_us
end

local function restricted_index(question)
  if question.restricted then return 1 end
  for index, capability in ipairs(question.capabilities) do
    for _, restrictions in ipairs({ question.tenant_no, question.user_no }) do
      local until_ms = redis.call('HGET', restrictions, capability)
      if until_ms and (until_ms == '0' or tonumber(until_ms) > now_ms) then return index end
    end
  end
  return 0
end

-- What becomes of the user. Returns the record after, the status before, and the restricted capability.
local function pass(question)
  local record = read(question.record_key)
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
    move(question.record_key, question.indexes, question.user, record, to, cause, question.about)
  elseif later or stale then
    if stale then record.seen = now_ms end
    write(question.record_key, question.indexes, question.user, record, from)
  end
  return record, from, restricted
end

local function decide(question)
  local refused = false
  for _, window in ipairs(question.windows) do
    look(window)
    if window.over and not window.shadow then refused = true end
  end
  local answer = {}
  for _, window in ipairs(question.windows) do
    if not refused and not window.over then charge(window) end
    answer[#answer + 1] = window.used
    answer[#answer + 1] = reset_of(window)
    answer[#answer + 1] = window.over and 1 or 0
  end
  if question.cause ~= '' and not refused then
    local record, from, restricted = pass(question)
    answer[#answer + 1] = text_of(record)
    answer[#answer + 1] = from
    answer[#answer + 1] = restricted
  end
  return answer
end

local answers = {}
while arg_at < #ARGV do
  local question = parse()
  local well, answer = pcall(decide, question)
  if not well and type(answer) == 'table' then answer = answer.err or 'unknown error' end
  answers[#answers + 1] = well and answer or tostring(answer)
end
return answers
