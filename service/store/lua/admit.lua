-- Decide a batch of requests, each by itself: its limits, its user's status, its transition.
--
-- ARGV    for each group of questions (of the same tenant, limits, cause and reason) one text. Its first line: 'T' for the
--         first group of a tenant, 'G' for another one; seen_every ms and logout_grace ms; two digits (1|0): whether the
--         tenant's indexes are among the keys, and whether its users' rules are; then, where this server refuses writes
--         now, the kind of error that says why: nothing is written then, and what would have to be ends with that error.
--         Then the cause ('' where no user is known: then only limits are asked about), a line for each limit (name,
--         requests, window µs, 's' shadow, 'u' per user, 'su' both, or '-'), an empty line, and with a cause the reason
--         that is given for it ('' none)
--         for each question of the group one text: '0' without a cause; otherwise, of which only that is read that is
--         needed: passive (1|0), whether the configuration restricts it (1|0) and token expiry ms, of at least 13 digits,
--         in one word; when the token was issued, in seconds ('' unknown), client address, request id, the capabilities it
--         needs, with commas, user
-- KEYS    for each tenant: its rules (rules.lua), if said so its indexes (record.lua), and for each question: the window
--         of each limit; with a cause the user's record, and if said so its rules
-- Returns one list, and in it for each question, in order:
--         with a cause: the record, where the request did not change the status and nothing restricts it
--         or 0: a limit refused, and no user was read
--         or 1, status letter before, the record, index of the first restricted capability (0 none, negative: the token
--         is revoked, see is_revoked)
--         for each limit: used * 2 + over (1|0; -1: the limit does not hold for this question; as text "used over requests
--         window-in-seconds" where an operator has set the limit), µs until there is more quota
--         or instead of all that: nil, and the text of an error, which is that question's own. LACKS_INDEXES, LACKS_RULES:
--         nothing was done, since it takes indexes or rules that are not among the keys
--         (Not a list for each: Redis looks at each whether it is an error, a map, a set ..., which costs as much as a command.)

local ONE = 49  -- '1'
local LOGGED_IN, SPACE = 105, 32  -- 'i', ' '

-- The texts of groups come again and again: what is read of them, by the text; forgotten all at once where it becomes too
-- many. `fields` are those that the tenant's rules may have for its limits, `keys_each` is how many keys each question has.
local groups, group_count, MOST_GROUPS = {}, 0, 1000

local function parse_group(text)
  local first, seen, after, indexes, rules, why_not, cause, limits, reason =
    match(text, '^([TG])(%d+) (%d+) (%d)(%d) ?(%u*)\n(.-)\n(.-)\n\n(.*)$')
  local moves = MOVES[cause]
  local group = {
    is_first = first == 'T', seen_every = as_number(seen), grace = as_number(after), has_indexes = indexes == '1',
    has_rules = rules == '1', why_not = why_not ~= '' and why_not or nil, cause = cause, moves = moves, reason = reason,
    is_request = cause == 'request', limits = {}, fields = {}, keys_each = 0,
  }
  for name, requests, length_us, kind in string.gmatch(limits, '(%S+) (%d+) (%d+) (%S+)') do
    local limit = new_limit(as_number(requests), as_number(length_us), as_number(length_us), byte(kind) == 115)
    limit.per_user = byte(kind, -1) == 117
    group.limits[#group.limits + 1] = limit
    group.fields[#group.fields + 1] = '=' .. name
  end
  group.keys_each = #group.limits + (moves and (group.has_rules and 2 or 1) or 0)
  if group_count >= MOST_GROUPS then groups, group_count = {}, 0 end
  groups[text], group_count = group, group_count + 1
  return group
end

-- The tenant whose questions are decided now. Most have no rules, and then there is nothing to look up.
local tenant_rules, indexes_at, ruled, broken, any_user, revoked_before, any_revoked, held_by_names

local function take_tenant(group)
  indexes_at = key_at + 1
  tenant_rules, ruled, broken, held_by_names = KEYS[indexes_at], false, nil, nil
  key_at = group.has_indexes and indexes_at + INDEXES_LONG or indexes_at
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
local function limits_of(group)
  local limits = group.limits
  if broken or #limits == 0 then return limits end
  local said, own = call('HMGET', tenant_rules, unpack(group.fields)), {}
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

-- The group that is decided, its limits and how many they are, and what its cause makes of a status (nil: no user is
-- known). Of the question: where the key of its record is, and its windows; false where a limit does not hold.
local group, limits, limit_count, moves
local record_at, windows = 0, {}

local function take_group(taken)
  group, moves = taken, taken.moves
  if taken.is_first then take_tenant(taken) end
  if taken.why_not then refuse_writes(taken.why_not) end
  limits = ruled and limits_of(taken) or taken.limits
  limit_count = #limits
end

-- The rules of the question's user.
local function rules_of_user()
  if not group.has_rules then error(LACKS_RULES, 0) end
  return KEYS[record_at + 1]
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
local function restricted_index(configured, question)
  if configured then return 1 end
  if not ruled then return 0 end
  local any, held = holds(any_user), held_against(question)
  for index, capability in ipairs(held.names) do
    if holds(held.said[index]) then return index end
    if any and holds(call('HGET', rules_of_user(), capability)) then return index end
  end
  return 0
end

-- False, or a negative number where the token is revoked: -1, or the second up to which tokens are refused, negated,
-- where this one was issued in the second of the act, or in those added to it for clocks that differ: perhaps a new login;
-- less AHEAD where that second lies ahead of the clock by more than it may: a clock was ahead when it was set.
local function is_revoked(question)
  local before, rules = revoked_before, tenant_rules
  if any_revoked then
    local user_rules = rules_of_user()
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
  if not asked_all then
    be_sure()
    local wrong = lacking(NEEDED, PUBLISHED)
    if wrong then error(wrong, 0) end
    asked_all = true
  end
  if not group.has_indexes then error(LACKS_INDEXES, 0) end
end

-- The records that were parsed in this call, by their keys; and of those that were only read, the texts: the first one
-- beside the table, since most calls read one.
local records, record_count = {}, 0
local texts, read_count = {}, 0
local first_read, first_text

local function text_of_user(record_key)
  if record_key == first_read then return first_text end
  local text = read_count > 1 and texts[record_key]
  if not text then
    text = call('GET', record_key)
    read_count = read_count + 1
    if read_count == 1 then first_read, first_text = record_key, text else texts[record_key] = text end
  end
  return text
end

-- What was read of a user is perhaps changed, and not written: it is not to be used.
local function drop(record_key)
  records[record_key], texts[record_key] = nil, nil
  if record_key == first_read then first_read = nil end
end

-- Whether a request that nothing restricts leaves this record as it is, as most do: a user who is logged in and was seen
-- lately, by a token that ends no later than one that was seen, and is not the first without `iat`. False also where that is not seen at a glance.
local function is_at_rest(text, question)
  local status, previous = byte(text, 1, 2)
  if status ~= LOGGED_IN or #text ~= 44 then return false end
  local after_expiry, issued = byte(question, 16, 17)
  if after_expiry ~= SPACE or (issued == SPACE and is_dated_by(previous)) then return false end
  local age_ms = now_ms - sub(text, 18, 30)
  if age_ms < 0 or age_ms >= group.seen_every then return false end  -- the former: the clock was set back
  local expires, own = sub(text, 32), sub(question, 3, 15)
  return own == expires or own - expires <= 0
end

-- What becomes of the user, if something may. Returns the record after, the status before, and the restricted capability.
local function pass(record_key, text, revoked, passive, configured, question)
  local record, restricted = record_count > 0 and records[record_key], 0
  if not record then
    record = parse_record(text)
    records[record_key], record_count = record, record_count + 1
  end
  local from = record.status
  if revoked then return record, from, revoked end
  if ruled or configured == ONE then restricted = restricted_index(configured == ONE, question) end
  -- A request that is refused for a capability had a valid token, so it counts; but it logs nobody out.
  local cause, moves, seen_every, grace = group.cause, moves, group.seen_every, group.grace
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
  local first_undated = byte(question, expires_end + 1) == SPACE and is_dated(record)
  if not (to ~= from or later or stale or again or first_undated) then return record, from, restricted end
  may_write_records()
  if again then complete(record).again = now_ms end
  if later then record.expires = expires end
  local issued, ip, request, user = match(question, '^%S+ (%S*) (%S+) (%S+) %S* (.*)$')
  record.undated = issued == ''
  local indexes = indexes_after(indexes_at)
  if to ~= from then
    record.seen = now_ms
    move(record_key, indexes, user, record, to, cause, { by = 'user', ip = ip, request = request, reason = group.reason })
  else
    if stale then record.seen = now_ms end
    write(record_key, indexes, user, record, from)
  end
  return record, from, restricted
end

-- One list for all calls: what is behind its end is of former calls, and the end is marked.
local answers, at = {}, 0

-- Append what a question is answered of its limits, and charge it.
local function settle_limits(refused)
  for i = 1, limit_count do
    local limit, window, used, reset_us = limits[i], windows[i], -1, 0
    if window then
      local over = 0
      if window.used >= limit.requests then over = 1 elseif not refused then charge(window) end
      used, reset_us = window.used, window.reset_us
      if limit.reported then
        used = whole(used) .. ' ' .. over .. limit.reported
      else
        used = used * 2 + over
      end
    end
    answers[at + 1], answers[at + 2] = used, reset_us
    at = at + 2
  end
end

-- Whether a question is being decided: an error is its own.
local deciding

-- Decide one question, which begins with these two bytes. Where it fails, the others go on behind it.
local function decide(question, passive, configured)
  local first, refused, revoked = key_at, false, false
  key_at, record_at, deciding = first + group.keys_each, first + limit_count + 1, true
  if ruled then
    if broken then error(broken) end
    -- Who brings a revoked token is not the user: the user's own quota is none of its.
    if moves then revoked = is_revoked(question) end
  end
  for i = 1, limit_count do
    local limit = limits[i]
    local window = not (revoked and limit.per_user) and open(KEYS[first + i], limit)
    windows[i] = window
    if window and window.used >= limit.requests and not limit.shadow then refused = true end
  end
  if refused and moves then
    answers[at + 1], at = 0, at + 1
  elseif moves then
    local record_key, text = KEYS[record_at], nil
    if read_count == 0 then
      text = call('GET', record_key)
      read_count, first_read, first_text = 1, record_key, text
    elseif record_count == 0 or not records[record_key] then
      text = text_of_user(record_key)
    end
    if text and group.is_request and not ruled and configured ~= ONE and is_at_rest(text, question) then
      answers[at + 1], at = text, at + 1
    else
      local record, from, restricted = pass(record_key, text, revoked, passive, configured, question)
      if from == record.status and restricted == 0 then
        answers[at + 1], at = record.text, at + 1
      else
        answers[at + 1], answers[at + 2], answers[at + 3], answers[at + 4] = 1, from, record.text, restricted
        at = at + 4
      end
    end
  end
  if limit_count > 0 then settle_limits(refused) end  -- it only charges, and cannot fail
  deciding = false
end

-- Decide the questions that are left, and write what they are charged.
local function decide_rest()
  for i = arg_at + 1, #ARGV do
    local text = ARGV[i]
    local known = groups[text]
    arg_at = i
    if known then
      take_group(known)
    else
      local passive, configured = byte(text, 1, 2)
      if passive <= ONE then decide(text, passive, configured) else take_group(parse_group(text)) end
    end
  end
  save_windows()
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
local function run()
  -- What the call before has read is forgotten.
  if record_count > 0 then records, record_count = {}, 0 end
  if read_count > 1 then texts = {} end
  read_count, first_read = 0, nil
  at, asked_all, deciding = 0, false, false
  start_windows()
  while true do
    local well, raised = pcall(decide_rest)
    if well then
      answers[at + 1] = nil
      return answers
    end
    local wrong = text_of(raised)
    if not deciding or SERVERS_OWN[match(wrong, '^-?(%u+)')] then return redis.error_reply(wrong) end
    deciding = false
    answers[at + 1], answers[at + 2] = false, wrong
    at = at + 2
    if moves then drop(KEYS[record_at]) end
  end
end
