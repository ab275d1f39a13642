-- Tell a sample of what is refused as an event: not again before a while has passed, whichever worker comes.
--
-- KEYS    what keeps from telling it again, events
-- ARGV    for how many ms, then the event, field by field
-- Returns 1 where it was told, else 0

local function run()
  local told, events = key(), key()
  local for_ms = number()

  if not call('SET', told, '1', 'NX', 'PX', for_ms) then return 0 end
  local entry = {}
  while arg_at < #ARGV do entry[#entry + 1] = arg() end
  tell(events, entry, {})
  return 1
end
