-- Take, renew or release a lease. A worker that dies loses it when it runs out. The time is in the value, since a key with
-- a TTL may be evicted (maxmemory-policy volatile-*), and then two workers would hold it.
--
-- KEYS    the lease: "who until-ms"
-- ARGV    the worker, for how many ms (0 releases it)
-- Returns 1 if the worker has it now, or had it until now; else 0

local function run()
  local lease = key()
  local who, for_ms = arg(), number()

  local owner, until_ms = string.match(call('GET', lease) or '', '^(%S+) (%d+)$')
  local left_ms = tonumber(until_ms or 0) - now_ms
  -- What ends later than any lease can was taken before the clock was set back.
  if owner and owner ~= who and left_ms > 0 and left_ms <= LONGEST_LEASE_MS then return 0 end
  if for_ms > 0 then
    call('SET', lease, who .. ' ' .. whole(now_ms + for_ms))
  elseif owner then
    call('DEL', lease)
  end
  return 1
end
