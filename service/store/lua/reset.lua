-- Restore the whole quota of a subject. Every worker forgets that it was refused.
--
-- KEYS    the window, the tenant's events
-- ARGV    the limit's name, the subject, the channel of pushes, the tenant, by, client address, request id, reason
-- Returns 1 where something was used, else 0

local function run()
  local window, events = key(), key()
  local limit, subject, channel, tenant = arg(), arg(), arg(), arg()
  local about = { by = arg(), ip = arg(), request = arg(), reason = arg() }

  local reset = call('DEL', window)
  call('PUBLISH', channel, tenant)
  if reset == 1 then emit(events, { 'type', 'limit', 'limit', limit, 'change', 'reset', 'subject', subject }, about) end
  return reset
end
