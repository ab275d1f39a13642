-- Decide a batch of requests, each by itself: its limits, its user's status, its transition.
--
-- ARGV    seen_every ms and logout_grace ms in one word each; then, where this server refuses writes now, the kind of
--         error that says why: nothing is written then, and what would have to be ends with that error
--         for each tenant: whether its indexes are among the keys (1|0), and after a space how many groups of questions
--         (of the same limits, cause and reason); for each group
--         how many questions; its shape: the cause ('' where no user is known: then only limits are asked about), a line
--         for each limit (name, requests, window µs, 's' shadow, 'u' per user, 'su' both, or '-'), an empty line, and
--         with a cause the reason that is given for it ('' none)
--         with a cause, for each question one text, of which only that is read that is needed: passive (1|0), whether
--         the configuration restricts it (1|0) and token expiry ms in one word; when the token was issued, in seconds
--         ('' unknown), client address, request id, the capabilities it needs, with commas, user
-- KEYS    for each tenant: its rules (rules.lua), if said so its indexes (record.lua), and for each question: the window
--         of each limit; with a cause the user's record and rules
-- Returns one list, and in it for each question, in order:
--         with a cause: status letter before; '' if a limit refused, and no user was read; otherwise
--         record, index of the first restricted capability (0 none, negative: the token is revoked, see is_revoked)
--         for each limit: used (-1: it does not hold for this question), µs until there is more quota, over (1|0; where
--         an operator has set the limit "over requests window-in-seconds")
--         or instead of all that: nil, and the text of an error, which is that question's own
--         (Not a list for each: Redis looks at each whether it is an error, a map, a set ..., which costs as much as a command.)

local ONE, BLANK = 49, 32  -- '1', ' '

-- What is read of texts that come again and again, by the text; forgotten all at once where it becomes too many.
local settings, shapes, shape_count, MOST_SHAPES = {}, {}, 0, 1000

-- The settings of this call, and the records that were read in it.
local seen_every, grace, records, record_count = 0, 0, {}, 0

local function take_settings(text)
  local held = settings[text]
  if not held then
    local seen, after, why_not = match(text, '^(%d+) (%d+) ?(%u*)$')
    held = { as_number(seen), as_number(after), why_not ~= '' and why_not or nil }
    settings = { [text] = held }
  end
  seen_every, grace = held[1], held[2]
  start_windows(held[3])
end

-- A group as its text describes it: `fields` are those that the tenant's rules may have for its limits.
local function parse_shape(text)
  local cause, limits, reason = match(text, '^(.-)\n(.-)\n\n(.*)$')
  local shape = { cause = cause, moves = MOVES[cause], reason = reason, limits = {}, fields = {}, configured = {} }
  for name, requests, length_us, kind in string.gmatch(limits, '(%S+) (%d+) (%d+) (%S+)') do
    local limit = new_limit(as_number(requests), as_number(length_us), as_number(length_us), byte(kind) == 115)
    limit.per_user = byte(kind, -1) == 117
    shape.limits[#shape.limits + 1] = limit
    shape.fields[#shape.fields + 1] = '=' .. name
  end
  if shape_count >= MOST_SHAPES then shapes, shape_count = {}, 0 end
  shapes[text], shape_count = shape, shape_count + 1
  return shape
end

-- The tenant whose questions are decided now. Most have no rules, and then there is nothing to look up.
local tenant_rules, indexes_at, ruled, broken, any_user, revoked_before, any_revoked, held_by_names

local function take_tenant(known)
  tenant_rules, ruled, broken, held_by_names = key(), false, nil, nil
  indexes_at = key_at
  if known then key_at = key_at + INDEXES_LONG end
  if call('EXISTS', tenant_rules) == 1 then
    ruled = true
    local said = redis.pcall('HMGET', tenant_rules, ANY_USER, REVOKED, ANY_REVOKED)
    if said.err then  -- these questions' own error, not the whole batch's
      broken = said
    else
      any_user, revoked_before, any_revoked = said[1], as_number(said[2] or nil), said[3]
    end
  end
end

-- The limits of a group as they hold for the tenant: where an operator has set some, in place of the configuration's.
local function limits_of(shape)
  local limits = shape.limits
  if not ruled or broken or #limits == 0 then return limits end
  local said, own = call('HMGET', tenant_rules, unpack(shape.fields)), {}
  for i, limit in ipairs(limits) do
    local requests, window = overridden(said[i])
    if requests then
      local held = new_limit(requests, window * 1000000, limit.length_us, limit.shadow)
      held.per_user, held.reported = limit.per_user, ' ' .. said[i]
      limit = held
    end
    own[i] = limit
  end
  return own
end

local function holds(until_ms)
  return until_ms and (until_ms == '0' or as_number(until_ms) > now_ms)
end

-- What the tenant's rules say of the capabilities that a question needs; asked once in a batch.
local function held_against(question)
  local wanted = match(question, '^%S+ %S* %S+ %S+ (%S*) ')
  held_by_names = held_by_names or {}
  local held = held_by_names[wanted]
  if not held then
    local names = {}
    for name in string.gmatch(wanted, '[^,]+') do names[#names + 1] = name end
    held = { names = names, said = #names > 0 and call('HMGET', tenant_rules, unpack(names)) or {} }
    held_by_names[wanted] = held
  end
  return held
end

-- Of the capabilities that are asked for, the first that the tenant or the user is restricted from.
local function restricted_index(configured, question, user_rules)
  if configured then return 1 end
  if not ruled then return 0 end
  local any, held = holds(any_user), held_against(question)
  for index, capability in ipairs(held.names) do
    if holds(held.said[index]) then return index end
    if any and holds(call('HGET', user_rules, capability)) then return index end
  end
  return 0
end

-- False, or a negative number where the token is revoked: -1, or the second up to which tokens are refused, negated,
-- where this one was issued in the second of the act, or in those added to it for clocks that differ: perhaps a new login;
-- less AHEAD where that second lies ahead of the clock by more than it may: a clock was ahead when it was set.
local function is_revoked(user_rules, question)
  local before, rules = revoked_before, tenant_rules
  if any_revoked then
    local own = as_number(call('HGET', user_rules, REVOKED) or nil)
    if own and own > (before or -1) then before, rules = own, user_rules end
  end
  if not before then return false end
  local issued = as_number(match(question, '^%S+ (%-?%d*)'))
  if not issued then return -1 end
  if issued > before then return false end
  local skew = as_number(call('HGET', rules, REVOKED_SKEW) or nil) or 0
  if before - skew > now_ms / 1000 + MAY_BE_AHEAD_S then return -before - AHEAD end
  return skew > 0 and issued >= before - skew and -before or -1
end

-- When a user who is logged out said so last; not at all where an operator reinstated it.
local function logged_out_at(record)
  complete(record)
  return record.again or (record.previous ~= 's' and record.since or 0)
end

-- Raise an error, as text, where a record may not be written, with all that is written beside it.
local asked_all
local function may_write_records()
  if asked_all then return end
  be_sure()
  local wrong = lacking(NEEDED, PUBLISHED)
  if wrong then error(wrong, 0) end
  asked_all = true
end

-- What becomes of the user. Returns the record after, the status before, and the restricted capability.
local function pass(shape, revoked, record_key, user_rules, question)
  local record = records[record_key]
  if not record then
    record = glance(record_key)
    records[record_key], record_count = record, record_count + 1
  end
  local from = record.status
  if revoked then return record, from, revoked end
  local passive, configured = byte(question, 1, 2)
  local restricted = 0
  if ruled or configured == ONE then restricted = restricted_index(configured == ONE, question, user_rules) end
  -- A request that is refused for a capability had a valid token, so it counts; but it logs nobody out.
  local cause, moves = shape.cause, shape.moves
  if restricted > 0 then cause, moves = 'request', MOVES.request end
  local to = moves[from]
  if NAMES[to] == nil or (passive == ONE and cause == 'request') then return record, from, restricted end
  local again = false
  if from == 'o' and grace > 0 then
    again = cause == 'logout'
    if cause == 'request' then
      local out = logged_out_at(record)
      local passed, issued = now_ms - out, as_number(match(question, '^%S+ (%S*)'))
      -- A token that was issued after the logout is a login. Most are issued in whole seconds: one of the logout's own
      -- second may be older.
      if not (issued and issued * 1000 > out) then
        if passed < grace then to = from end
        if passed < 0 then again = true end  -- the clock was set back: the grace counts from now, not until it catches up
      end
    end
  end
  local expires_end = find(question, ' ', 3, true)
  local expires = as_number(sub(question, 3, expires_end - 1))
  local later, seen = expires > record.expires, record.seen
  local stale = now_ms - seen >= seen_every or now_ms < seen  -- the latter: the clock was set back
  -- The first token without `iat` is noted at once: the answer to a revocation of the user's tokens says so.
  local first_undated = byte(question, expires_end + 1) == BLANK and is_dated(record)
  if not (to ~= from or later or stale or again or first_undated) then return record, from, restricted end
  may_write_records()
  if again then complete(record).again = now_ms end
  if later then record.expires = expires end
  local issued, ip, request, user = match(question, '^%S+ (%S*) (%S+) (%S+) %S* (.*)$')
  record.undated = issued == ''
  local indexes = indexes_after(indexes_at)
  if to ~= from then
    record.seen = now_ms
    move(record_key, indexes, user, record, to, cause, { by = 'user', ip = ip, request = request, reason = shape.reason })
  else
    if stale then record.seen = now_ms end
    write(record_key, indexes, user, record, from)
  end
  return record, from, restricted
end

-- Of the group that is decided: its shape and its limits. Of the question: its windows; false where a limit does not hold.
local shape, limits, windows = nil, nil, {}

-- Decide one question; only what it is charged is left to do, and cannot fail. Returns whether a limit refuses, and where
-- none does the record after, the status before, and the restricted capability.
local function decide(first_key, first_arg)
  if broken then error(broken) end
  local count, refused, revoked, known = #limits, false, false, shape.moves
  -- Who brings a revoked token is not the user: the user's own quota is none of its.
  if ruled and known then revoked = is_revoked(KEYS[first_key + count + 2], ARGV[first_arg + 1]) end
  for i = 1, count do
    local limit = limits[i]
    local window = not (revoked and limit.per_user) and open(KEYS[first_key + i], limit)
    windows[i] = window
    if window and window.used >= limit.requests and not limit.shadow then refused = true end
  end
  if refused or not known then return refused end
  return refused, pass(shape, revoked, KEYS[first_key + count + 1], KEYS[first_key + count + 2], ARGV[first_arg + 1])
end

-- One list for all calls: what is behind its end is of former calls, and the end is marked.
local answers, at = {}, 0

-- Append what a question is answered, and charge it.
local function settle_question(refused, record, from, restricted)
  if record then
    answers[at + 1], answers[at + 2], answers[at + 3] = from, record.text, restricted
    at = at + 3
  elseif shape.moves then
    answers[at + 1], at = '', at + 1
  end
  for i = 1, #limits do
    local limit, window, used, reset_us, over = limits[i], windows[i], -1, 0, 0
    if window then
      if window.used >= limit.requests then over = 1 elseif not refused then charge(window) end
      used, reset_us = window.used, window.reset_us
      if limit.reported then over = over .. limit.reported end
    end
    answers[at + 1], answers[at + 2], answers[at + 3] = used, reset_us, over
    at = at + 3
  end
end

-- The text of what was raised. Within a script no server says NOPERM (Redis, then Valkey).
local function text_of(raised)
  local wrong = tostring(type(raised) == 'table' and raised.err or raised)
  if find(wrong, 'The user executing the script', 1, true) or find(wrong, 'ACL failure in script', 1, true) then
    wrong = 'NOPERM ' .. wrong
  end
  return wrong
end

-- Decide all questions. Returns an error where it is not one question's own.
local function decide_all()
  if record_count > 0 then records, record_count = {}, 0 end
  at, asked_all, arg_at = 0, false, 1
  take_settings(ARGV[1])
  local end_of_args = #ARGV
  while arg_at < end_of_args do
    local said = arg()
    take_tenant(byte(said) == ONE)
    for _ = 1, as_number(sub(said, 3)) do
      local questions, text = number(), arg()
      shape = shapes[text] or parse_shape(text)
      limits = limits_of(shape)
      local keys_each, args_each = #limits, 0
      if shape.moves then keys_each, args_each = keys_each + 2, 1 end
      for _ = 1, questions do
        local well, refused, record, from, restricted = pcall(decide, key_at, arg_at)
        key_at, arg_at = key_at + keys_each, arg_at + args_each
        if well then
          settle_question(refused, record, from, restricted)
        else
          local wrong = text_of(refused)
          if SERVERS_OWN[match(wrong, '^-?(%u+)')] then return redis.error_reply(wrong) end
          answers[at + 1], answers[at + 2] = false, wrong
          at = at + 2
          if args_each > 0 then records[KEYS[key_at - 1]] = nil end  -- perhaps changed, and not written: not to be used
        end
      end
    end
  end
  save_windows()
  answers[at + 1] = nil
  return answers
end

local function run()
  local well, answer = pcall(decide_all)
  return well and answer or redis.error_reply(text_of(answer))
end
