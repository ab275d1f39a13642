-- Take out what has ended of the rules of some users.
--
-- KEYS    the rules of each, timed rules (rules.lua: the last)
-- Returns how many were looked at

for i = 1, #KEYS - 1 do settle(KEYS[i]) end
return #KEYS - 1
