-- Decide a batch of requests, each by itself: its limits, its user's standing, its transition.
--
-- ARGV    seen_every ms, logout_grace ms, then for each tenant: how many groups of questions (of the same limits, cause
--         and reason), and whether its indexes are among the keys (1|0); for each group
--         how many questions; the cause ('' where no user is known: then only limits are asked about)
--         number of limits, and for each: name, requests, window µs, 's' shadow, 'u' per user, 'su' both, or ''
--         with a cause: the reason that is given for it ('' none)
--         and for each question one text, of which only that is read that is needed: passive (1|0), whether the
--         configuration restricts it (1|0) and token expiry ms in one word; second in which the token was issued
--         ('' unknown), client address, request id, the capabilities it needs, with commas, user
-- KEYS    for each tenant: its rules (rules.lua), if said so its indexes (record.lua), and for each question: the window
--         of each limit; with a cause the user's record and rules
-- Returns one list, and in it for each question, in order:
--         with a cause: status letter before; '' where a limit refused: nobody was looked at; otherwise
--         record, index of the first restricted capability (0 none, negative: the token is revoked, see is_revoked)
--         for each limit: used (-1: it does not hold for this question), µs until there is more quota, over (1|0; where
--         an operator has set the limit "over requests window-in-seconds")
--         or instead of all that: nil, and the text of an error, which is that question's own
--         (Not a list for each: Redis looks at each whether it is an error, a map, a set ..., which costs as much as a command.)

local seen_every, grace = number(), number()
local records = {}
local ONE = string.byte('1')

-- A tenant, and whether there are rules for it: most have none, and then there is nothing to look up.
local function parse_tenant()
  local tenant = { groups = number(), known = arg() == '1', rules = key(), held = {} }
  if tenant.known then tenant.indexes = take_indexes() end
  if redis.call('EXISTS', tenant.rules) == 1 then
    tenant.ruled = true
    local said = redis.pcall('HMGET', tenant.rules, ANY_USER, REVOKED, ANY_REVOKED)
    if said.err then  -- these questions' own error, not the whole batch's
      tenant.broken = said
    else
      tenant.any_user, tenant.revoked, tenant.any_revoked = said[1], tonumber(said[2]), said[3]
    end
  end
  return tenant
end

-- A group, and what the tenant's rules say of its limits: asked once in a batch.
local function parse_group(tenant)
  local group = { tenant = tenant, questions = number(), cause = arg(), limits = {} }
  local count, fields = number(), {}
  for i = 1, count do
    group.limits[i] = { name = arg(), requests = number(), length_us = number(), kind = arg() }
    fields[i] = '=' .. group.limits[i].name
  end
  if group.cause ~= '' then group.reason = arg() end
  local said = {}
  if tenant.ruled and count > 0 and not tenant.broken then said = redis.call('HMGET', tenant.rules, unpack(fields)) end
  for i, limit in ipairs(group.limits) do
    local requests, window = overridden(said[i])
    local shadow = string.sub(limit.kind, 1, 1) == 's'
    local length_us = requests and window * 1000000 or limit.length_us
    local held = new_limit(requests or limit.requests, length_us, limit.length_us, shadow)
    if requests then held.told = ' ' .. said[i] end
    held.per_user = string.sub(limit.kind, -1) == 'u'
    group.limits[i] = held
  end
  return group
end

local function holds(until_ms)
  return until_ms and (until_ms == '0' or tonumber(until_ms) > now_ms)
end

-- What the tenant's rules say of the capabilities that a question needs; asked once in a batch.
local function held_against(tenant, question)
  local wanted = string.match(question, '^%S+ %-?%d* %S+ %S+ (%S*) ')
  local held = tenant.held[wanted]
  if not held then
    local names = {}
    for name in string.gmatch(wanted, '[^,]+') do names[#names + 1] = name end
    held = { names = names, said = #names > 0 and redis.call('HMGET', tenant.rules, unpack(names)) or {} }
    tenant.held[wanted] = held
  end
  return held
end

-- Of the capabilities that are asked for, the first that the tenant or the user is restricted from.
local function restricted_index(tenant, configured, question, user_rules)
  if configured then return 1 end
  if not tenant.ruled then return 0 end
  local any_user, held = holds(tenant.any_user), held_against(tenant, question)
  for index, capability in ipairs(held.names) do
    if holds(held.said[index]) then return index end
    if any_user and holds(redis.call('HGET', user_rules, capability)) then return index end
  end
  return 0
end

-- False, or a negative number where the token is revoked: -1, or the second up to which tokens are refused, negated,
-- where this one was issued in the second of the act, or in those added to it for clocks that differ: perhaps a new login.
local function is_revoked(tenant, user_rules, question)
  local before, rules = tenant.revoked, tenant.rules
  if tenant.any_revoked then
    local own = tonumber(redis.call('HGET', user_rules, REVOKED))
    if own and own > (before or -1) then before, rules = own, user_rules end
  end
  if not before then return false end
  local issued = tonumber(string.match(question, '^%S+ (%-?%d*)'))
  if not issued then return -1 end
  if issued > before then return false end
  local skew = tonumber(redis.call('HGET', rules, REVOKED_SKEW)) or 0
  return skew > 0 and issued >= before - skew and -before or -1
end

-- When a user who is logged out said so last; not at all where an operator reinstated it.
local function logged_out_at(record)
  complete(record)
  return record.again or (record.previous ~= 's' and record.since or 0)
end

-- What becomes of the user. Returns the record after, the status before, and the restricted capability.
local function pass(group, revoked, record_key, user_rules, question)
  local tenant = group.tenant
  local passive, configured = byte(question, 1, 2)
  local record = records[record_key] or glance(record_key)
  records[record_key] = record
  local from = record.status
  if revoked then return record, from, revoked end
  local restricted = restricted_index(tenant, configured == ONE, question, user_rules)
  -- A request that is refused for a capability had a valid token, so it counts; but it logs nobody out.
  local cause = restricted > 0 and 'request' or group.cause
  local to = MOVES[cause][from]
  if NAMES[to] == nil or (passive == ONE and cause == 'request') then return record, from, restricted end
  local again = from == 'o' and cause == 'logout' and grace > 0
  if from == 'o' and cause == 'request' and grace > 0 then
    local out = logged_out_at(record)
    local passed, issued = now_ms - out, tonumber(string.match(question, '^%S+ (%-?%d*)'))
    -- A token that was issued after the logout is a login. By whole seconds: one of the logout's own second may be older.
    if not (issued and issued * 1000 > out) then
      if passed < grace then to = from end
      if passed < 0 then again = true end  -- the clock was set back: the grace counts from now, not until it catches up
    end
  end
  if again then complete(record).again = now_ms end
  local expires = tonumber(sub(question, 3, find(question, ' ', 3, true) - 1))
  local later = expires > record.expires
  local stale = now_ms - record.seen >= seen_every or now_ms < record.seen  -- the latter: the clock was set back
  if later then record.expires = expires end
  if not (to ~= from or later or stale or again) then return record, from, restricted end
  local issued, ip, request, user = string.match(question, '^%S+ (%-?%d*) (%S+) (%S+) %S* (.*)$')
  record.undated = issued == ''
  if to ~= from then
    record.seen = now_ms
    local about = { by = 'user', ip = ip, request = request, reason = group.reason }
    move(record_key, tenant.indexes, user, record, to, cause, about)
  else
    if stale then record.seen = now_ms end
    write(record_key, tenant.indexes, user, record, from)
  end
  return record, from, restricted
end

local windows = {}  -- of the question that is being decided; false where a limit does not hold for it

-- Decide one question; only what it is charged is left to do, and cannot fail. Returns whether a limit refuses, and where
-- none does the record after, the status before, and the restricted capability.
local function decide(group, first_key, first_arg)
  local tenant, limits, known = group.tenant, group.limits, group.cause ~= ''
  if tenant.broken then error(tenant.broken) end
  local count, refused = #limits, false
  -- Who brings a revoked token is not the user: the user's own quota is none of its.
  local revoked = known and tenant.ruled and is_revoked(tenant, KEYS[first_key + count + 2], ARGV[first_arg + 1])
  for i = 1, count do
    local limit = limits[i]
    local window = not (revoked and limit.per_user) and open(KEYS[first_key + i], limit)
    windows[i] = window
    if window and window.used >= limit.requests and not limit.shadow then refused = true end
  end
  if refused or not known then return refused end
  return refused, pass(group, revoked, KEYS[first_key + count + 1], KEYS[first_key + count + 2], ARGV[first_arg + 1])
end

local answers, at = {}, 0

-- Append what a question is answered, and charge it.
local function settle(group, refused, record, from, restricted)
  if record then
    answers[at + 1], answers[at + 2], answers[at + 3] = from, record.text, restricted
    at = at + 3
  elseif group.cause ~= '' then
    answers[at + 1], at = '', at + 1
  end
  local limits = group.limits
  for i = 1, #limits do
    local limit, window, used, reset_us, over = limits[i], windows[i], -1, 0, 0
    if window then
      if window.used >= limit.requests then over = 1 elseif not refused then charge(window) end
      used, reset_us = window.used, window.reset_us
      if limit.told then over = over .. limit.told end
    end
    answers[at + 1], answers[at + 2], answers[at + 3] = used, reset_us, over
    at = at + 3
  end
end

-- Whether an error says that a right is missing: within a script no server says NOPERM (Redis, then Valkey).
local function forbidden(text)
  return find(text, 'The user executing the script', 1, true) or find(text, 'ACL failure in script', 1, true)
end

while arg_at < #ARGV do
  local tenant = parse_tenant()
  for _ = 1, tenant.groups do
    local group = parse_group(tenant)
    local keys_each, args_each = #group.limits, 0
    if group.cause ~= '' then keys_each, args_each = keys_each + 2, 1 end
    for _ = 1, group.questions do
      local well, refused, record, from, restricted = pcall(decide, group, key_at, arg_at)
      key_at, arg_at = key_at + keys_each, arg_at + args_each
      if well then
        settle(group, refused, record, from, restricted)
      else
        local wrong = tostring(type(refused) == 'table' and refused.err or refused)
        if forbidden(wrong) then wrong = 'NOPERM ' .. wrong end
        if SERVERS_OWN[string.match(wrong, '^-?(%u+)')] then return redis.error_reply(wrong) end
        answers[at + 1], answers[at + 2] = false, wrong
        at = at + 2
        if args_each > 0 then records[KEYS[key_at - 1]] = nil end  -- changed, perhaps, and not written: nobody's to go on from
      end
    end
  end
end
save_windows()
return answers
