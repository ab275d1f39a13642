-- Forget the state of webhooks without a delivery for long: they are removed, or have no events to continue with.
--
-- KEYS    the webhooks with a state, then for each webhook its state and its lease
-- ARGV    how long the state outlives the last, ms; then the name of each
-- Returns how many were forgotten

local function run()
  local webhooks = key()
  local lifetime, forgotten = number(), 0
  while arg_at < #ARGV do
    local name, state, lease = arg(), key(), key()
    local changed_ms = tonumber(call('ZSCORE', webhooks, name))
    if changed_ms and changed_ms <= now_ms - lifetime then
      call('DEL', state, lease)
      call('ZREM', webhooks, name)
      forgotten = forgotten + 1
    end
  end
  return forgotten
end
