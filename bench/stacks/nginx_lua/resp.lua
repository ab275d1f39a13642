-- A client for Redis: commands in one pipeline, over the connection pool of ngx.socket.tcp.
local tcp = ngx.socket.tcp
local concat, sub, byte = table.concat, string.sub, string.byte

local IDLE_MS, POOL = 60000, 64
local MINUS, COLON, PLUS, DOLLAR = byte("-"), byte(":"), byte("+"), byte("$")

local M = {}

-- One command as bytes.
function M.command(...)
    local words = { ... }
    for at = 1, #words do
        words[at] = "$" .. #words[at] .. "\r\n" .. words[at] .. "\r\n"
    end
    return "*" .. #words .. "\r\n" .. concat(words)
end

-- One reply: a number, a string, or nil; and what went wrong.
local function reply(socket)
    local line, failed = socket:receive("*l")
    if not line then
        return nil, failed
    end
    local kind = byte(line)
    if kind == COLON then
        return tonumber(sub(line, 2))
    elseif kind == DOLLAR then
        local size = tonumber(sub(line, 2))
        if size < 0 then
            return nil
        end
        local value, broken = socket:receive(size + 2)
        return value and sub(value, 1, size), broken
    elseif kind == PLUS then
        return sub(line, 2)
    elseif kind == MINUS then
        return nil, sub(line, 2)
    end
    return nil, "a reply of another kind: " .. line
end

-- Sends three commands at once; their replies, then what went wrong.
function M.three(host, port, commands)
    local socket = tcp()
    local done, failed = socket:connect(host, port)
    if not done then
        return nil, nil, nil, failed
    end
    done, failed = socket:send(commands)
    if not done then
        return nil, nil, nil, failed
    end
    local replies = { nil, nil, nil }
    for at = 1, 3 do
        replies[at], failed = reply(socket)
        if failed then
            socket:close()  -- no one reads what is still to come
            return nil, nil, nil, failed
        end
    end
    socket:setkeepalive(IDLE_MS, POOL)
    return replies[1], replies[2], replies[3]
end

return M
