-- Hold a lease, or give it up. Whoever dies loses it when it runs out.
--
-- KEYS    the lease
-- ARGV    who asks, for how many ms (0 gives it up)
-- Returns 1 where it is whose who asks now, or was until now; else 0

local lease = key()
local who, for_ms = arg(), number()

local owner = redis.call('GET', lease)
if owner and owner ~= who then return 0 end
if for_ms > 0 then
  redis.call('SET', lease, who, 'PX', for_ms)
elseif owner then
  redis.call('DEL', lease)
end
return 1
