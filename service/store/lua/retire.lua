-- Forget the state of webhooks without a delivery for long: they are removed, or have no events to continue with.
--
-- KEYS    the webhooks with a state, then for each webhook its state and its lease
-- ARGV    how long the state outlives the last, ms; then the name of each
-- Returns how many were forgotten

local function run()
  local hooks = key()
  local lifetime, forgotten = number(), 0
  while arg_at < #ARGV do
    local name, state, lease = arg(), key(), key()
    local told_ms = tonumber(call('ZSCORE', hooks, name))
    if told_ms and told_ms <= now_ms - lifetime then
      call('DEL', state, lease)
      call('ZREM', hooks, name)
      forgotten = forgotten + 1
    end
  end
  return forgotten
end
