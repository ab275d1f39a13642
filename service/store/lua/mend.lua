-- Make the indexes agree with the records of some users. The record is right: an index is written from it. No status
-- changes, so there is no event.
--
-- KEYS    the tenant's indexes (record.lua), then the record of each user
-- ARGV    each user
-- Returns the users whose indexes were mended, then those whose record cannot be read, and was left as it is

local function run()
  local indexes = take_indexes()
  local mended, unreadable = {}, {}

  -- The entries of the indexes that belong to a record: index → score.
  local function entries_of(record)
    local entries = { [record.status] = record.seen > 0 and record.seen or record.since }
    entries.expiring = place_of(record)
    return entries
  end

  while arg_at < #ARGV do
    local record_key, user = key(), arg()
    if not readable(record_key) then
      unreadable[#unreadable + 1] = user
    else
      local record, wrong = read(record_key), false
      local wanted = record.status == '-' and {} or entries_of(record)
      for _, index in ipairs(INDEXES) do
        local score = tonumber(call('ZSCORE', indexes[index], user) or nil)
        if score ~= wanted[index] then
          wrong = true
          if wanted[index] then
            call('ZADD', indexes[index], whole(wanted[index]), user)
          else
            call('ZREM', indexes[index], user)
          end
        end
      end
      if wrong then mended[#mended + 1] = user end
    end
  end
  return { mended, unreadable }
end
