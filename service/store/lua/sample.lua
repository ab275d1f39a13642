-- Report a refusal as an event, as a sample: no worker reports its kind again before a while has passed.
--
-- KEYS    the key that exists until the next report, events
-- ARGV    for how many ms, then the event, field by field
-- Returns 1 if it was reported, else 0

local function run()
  local reported_lately, events = key(), key()
  local for_ms = number()

  if not call('SET', reported_lately, '1', 'NX', 'PX', for_ms) then return 0 end
  local entry = {}
  while arg_at < #ARGV do entry[#entry + 1] = arg() end
  emit(events, entry, {})
  return 1
end
