-- The newest events of one user, found by their links (record.lua). What a call reads is bounded: it says where the next goes
-- on. Events that an earlier version appended are not linked, and are searched one after the other.
--
-- KEYS    events, trails
-- ARGV    user; the id of the event to begin with, inclusive ('': the newest); how many of the user's events at most; how
--         many events to examine at most
-- Returns the id of the stream's oldest event ('' none), the id with which the next call begins ('' there is nothing more),
--         and for each event its id and its fields

local LATEST = '+'

local function is_after(one, other)
  local ms, number = match(one, '^(%d+)-(%d+)$')
  local other_ms, other_number = match(other, '^(%d+)-(%d+)$')
  ms, other_ms = as_number(ms), as_number(other_ms)
  return ms > other_ms or (ms == other_ms and as_number(number) > as_number(other_number))
end

-- What a field of an event holds; nil where it has none.
local function field_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

local function run()
  local events, trails = key(), key()
  local user, at, most, budget = arg(), arg(), number(), number()
  local oldest = call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  if not oldest then return { '', '' } end
  local known = call('HMGET', trails, bucket_of(user), UNLINKED)
  local unlinked = known[2] or LATEST
  if at == '' then at = known[1] or unlinked end
  local answer = { oldest[1], '' }

  local function is_gone(id) return id ~= LATEST and is_after(oldest[1], id) end
  local function take(entry)
    if field_of(entry[2], 'user') == user then answer[#answer + 1] = entry end
  end

  while at and not is_gone(at) do
    if #answer - 2 >= most or budget <= 0 then
      answer[2] = at
      break
    end
    if unlinked ~= LATEST and at ~= LATEST and is_after(at, unlinked) then
      local entry = call('XRANGE', events, at, at)[1]
      budget = budget - 1
      if entry then take(entry) end
      at = entry and (field_of(entry[2], 'prev') or unlinked)
    else
      local entries = call('XREVRANGE', events, at, '-', 'COUNT', math.min(budget, most) + 1)
      local last = #entries
      at = entries[math.min(budget, most) + 1] and entries[last][1]
      if at then last = last - 1 end
      budget = budget - last
      for i = 1, last do take(entries[i]) end
    end
  end
  return answer
end
