-- The commands that the calling user may not run.
--
-- ARGV    for each command: how many words, then its words, keys and channels of the service among them
-- Returns whether the server can check rights (1|0), then the place of each command that may not be run, from 1 on

local function run()
  local place, answers = 0, { acl_check_cmd and 1 or 0 }
  while acl_check_cmd and arg_at < #ARGV do
    local words = {}
    for i = 1, number() do words[i] = arg() end
    place = place + 1
    if not acl_check_cmd(unpack(words)) then answers[#answers + 1] = place end
  end
  return answers
end
