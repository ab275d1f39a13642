-- /auth/status: the token verified or known, the address's window counted, the user's status read.
require "resty.core"
local cjson = require "cjson"
local hs256 = require "hs256"
local lrucache = require "resty.lrucache"
local resp = require "resp"

local LIMIT, WINDOW_S, TOKENS = 1000000, 60, 10000
local cache = assert(lrucache.new(TOKENS))
local host, port, secret
local floor = math.floor

local M = {}

function M.set_up(redis_host, redis_port, jwt_secret)
    host, port, secret = redis_host, redis_port, jwt_secret
end

local function refuse(status, reason)
    local body = cjson.encode({ error = reason })
    ngx.status = status
    ngx.header.content_length = #body
    ngx.print(body)
end

local function user_of(token)
    local user = cache:get(token)
    if user then
        return user
    end
    local claims = hs256.verify(token, secret)
    if not claims then
        return nil
    end
    cache:set(token, claims.sub, claims.exp - ngx.time())
    return claims.sub
end

function M.answer()
    local token = ngx.var.http_x_token
    local user = token and user_of(token)
    if not user then
        return refuse(401, "unauthorized")
    end
    local window = "limit:" .. ngx.var.remote_addr .. ":" .. floor(ngx.time() / WINDOW_S)
    local used, _, status, failed = resp.three(host, port,
        resp.command("INCR", window)
        .. resp.command("EXPIRE", window, "60")
        .. resp.command("GET", "session:" .. user))
    if failed then
        return refuse(503, "unavailable")
    end
    if used > LIMIT then
        return refuse(429, "too many requests")
    end
    local body = cjson.encode({ user = user, status = status or "logged_in" })
    ngx.header.content_length = #body
    ngx.print(body)
end

return M
