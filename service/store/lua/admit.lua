-- Decide a batch of requests, each by itself: its limits, its user's standing, its transition.
--
-- ARGV    seen_every ms, logout_grace ms, then for each group of questions on the same terms:
--         how many questions; the cause ('' where no user is known: then only limits are asked about)
--         number of limits, and for each: requests, window µs, shadow (1|0)
--         with a cause: restricted by the configuration (1|0), number of capabilities, each capability
--         and with a cause for each question: user, token expiry ms, passive (1|0), client address, request id
-- KEYS    for each group with a cause: the tenant's restrictions, its indexes (record.lua)
--         and for each question: the window of each limit; with a cause the user's record and restrictions
-- Returns for each question, in order: a list
--         for each limit: used, µs until there is more quota, over (1|0)
--         and where a user is known and no limit refused: record, status letter before,
--         index of the first restricted capability (0 none)
--         or the text of an error, which is that question's own

local seen_every, grace = number(), number()
local records = {}

-- Errors that are not one question's, but the server's: they are everybody's, and open the circuit breaker.
local SERVERS_OWN = { READONLY = true, OOM = true, MISCONF = true, NOREPLICAS = true }

local function parse_group()
  local group = { questions = number(), cause = arg(), limits = {}, capabilities = {}, restricted = {} }
  for i = 1, number() do
    group.limits[i] = new_limit(number(), number(), arg() == '1')
  end
  if group.cause ~= '' then
    group.restrictions, group.indexes = key(), take_indexes()
    group.configured = arg() == '1'
    for i = 1, number() do group.capabilities[i] = arg() end
  end
  return group
end

local function holds(until_ms)
  return until_ms and (until_ms == '0' or tonumber(until_ms) > now_ms)
end

-- Whether the whole tenant is restricted; asked once in a batch.
local function tenant_is_restricted(group, capability)
  local known = group.restricted[capability]
  if known == nil then
    known = holds(redis.call('HGET', group.restrictions, capability)) or false
    group.restricted[capability] = known
  end
  return known
end

local function restricted_index(group, restrictions)
  if group.configured then return 1 end
  local any_user_is = tenant_is_restricted(group, ANY_USER)
  for index, capability in ipairs(group.capabilities) do
    if tenant_is_restricted(group, capability) then return index end
    if any_user_is and holds(redis.call('HGET', restrictions, capability)) then return index end
  end
  return 0
end

-- What becomes of the user. Returns the record after, the status before, and the restricted capability.
local function pass(group, record_key, restrictions, user, expires, passive, ip, request)
  local record = records[record_key] or read(record_key)
  records[record_key] = record
  local from = record.status
  local restricted = restricted_index(group, restrictions)
  -- A request that is refused for a capability had a valid token, so it counts; but it logs nobody out.
  local cause = restricted > 0 and 'request' or group.cause
  local to = MOVES[cause][from]
  if NAMES[to] == nil or (passive == '1' and cause == 'request') then return record, from, restricted end
  if from == 'o' and cause == 'request' and record.previous ~= 's' and now_ms - record.since < grace then
    to = from
  end
  expires = tonumber(expires)
  local later = expires > record.expires
  local stale = now_ms - record.seen >= seen_every
  if later then record.expires = expires end
  if to ~= from then
    record.seen = now_ms
    move(record_key, group.indexes, user, record, to, cause, { by = 'user', ip = ip, request = request })
  elseif later or stale then
    if stale then record.seen = now_ms end
    write(record_key, group.indexes, user, record, from)
  end
  return record, from, restricted
end

local function decide(group, first_key, first_arg)
  local answer, windows, refused = {}, {}, false
  local limits = group.limits
  local count = #limits
  for i = 1, count do
    local limit = limits[i]
    local window = open(KEYS[first_key + i], limit)
    windows[i] = window
    if window.used >= limit.requests and not limit.shadow then refused = true end
  end
  for i = 1, count do
    local window = windows[i]
    local over = window.used >= limits[i].requests
    if not refused and not over then charge(window) end
    answer[3 * i - 2], answer[3 * i - 1], answer[3 * i] = window.used, window.reset_us, over and 1 or 0
  end
  if group.cause ~= '' and not refused then
    local record, from, restricted = pass(group, KEYS[first_key + count + 1], KEYS[first_key + count + 2],
      ARGV[first_arg + 1], ARGV[first_arg + 2], ARGV[first_arg + 3], ARGV[first_arg + 4], ARGV[first_arg + 5])
    answer[3 * count + 1], answer[3 * count + 2], answer[3 * count + 3] = record.text, from, restricted
  end
  return answer
end

local answers = {}
while arg_at < #ARGV do
  local group = parse_group()
  local keys_each, args_each = #group.limits, 0
  if group.cause ~= '' then keys_each, args_each = keys_each + 2, 5 end
  for _ = 1, group.questions do
    local well, answer = pcall(decide, group, key_at, arg_at)
    key_at, arg_at = key_at + keys_each, arg_at + args_each
    if not well then
      answer = tostring(type(answer) == 'table' and answer.err or answer)
      if SERVERS_OWN[string.match(answer, '^-?(%u+)')] then return redis.error_reply(answer) end
    end
    answers[#answers + 1] = answer
  end
end
save_windows()
return answers
