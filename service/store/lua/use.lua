-- Note that a library is in use, and find those that no worker has used for long.
--
-- KEYS    the libraries: name → when a worker said last that it uses it, ms
-- ARGV    how long a library is kept that nobody uses, ms; the library in use; the others that the server has
-- Returns those of the others that are to be deleted; one that was never noted is noted now

local function run()
  local libraries, lifetime, own, unused = key(), number(), arg(), {}
  call('ZADD', libraries, whole(now_ms), own)
  while arg_at < #ARGV do
    local other = arg()
    local used_ms = tonumber(call('ZSCORE', libraries, other) or nil)
    if not used_ms then
      call('ZADD', libraries, whole(now_ms), other)
    elseif used_ms <= now_ms - lifetime then
      call('ZREM', libraries, other)
      unused[#unused + 1] = other
    end
  end
  return unused
end
