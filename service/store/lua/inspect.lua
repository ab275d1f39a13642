-- What an admission would find for some users of a tenant, and which event of its stream is the newest then.
--
-- KEYS    the tenant's rules (rules.lua) and events, then for each user its record and its rules
-- ARGV    how many users
-- Returns now ms, the id of the newest event ('' none), the tenant's rules, then for each user its record ('' none, or one
-- that cannot be read) and its rules; rules are each field and its value (none where they cannot be read)

-- The fields and values of rules; none where their key holds something else.
local function fields_of(rules)
  local entries = redis.pcall('HGETALL', rules)
  return entries.err and {} or entries
end

local function run()
  local tenant_rules, events = key(), key()
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  local answers = { whole(now_ms), newest and newest[1] or '', fields_of(tenant_rules) }
  for _ = 1, number() do
    local record, user_rules = key(), key()
    answers[#answers + 1] = readable(record) and call('GET', record) or ''
    answers[#answers + 1] = fields_of(user_rules)
  end
  return answers
end
