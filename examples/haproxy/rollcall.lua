-- Asks Rollcall about a request, without its body, and answers by itself where it is refused.
-- Source: HAProxy's Lua API, class HTTPClient (2.5 and newer), class Reply.

local ROLLCALL = "http://127.0.0.1:8080/auth/verify/haproxy"
local TIMEOUT_MS = 2000

-- Rollcall is not to be told these by a client, or they belong to one connection alone.
local OWN = { "^x%-auth%-", "^x%-original%-", "^x%-forwarded%-", "^forwarded$" }  -- `_` reads as `-` to many an upstream
local HOP = { ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true, ["expect"] = true,
              ["upgrade"] = true, ["te"] = true, ["trailer"] = true, ["keep-alive"] = true, ["host"] = true,
              ["content-type"] = true, ["content-encoding"] = true }

local function is_own(name)
  for _, pattern in ipairs(OWN) do
    if name:gsub("_", "-"):find(pattern) then return true end
  end
  return false
end

local function deny(txn, status, headers, body)
  local reply = txn:reply()
  reply:set_status(status)
  for name, values in pairs(headers) do
    if not HOP[name] and name ~= "server" and name ~= "date" then
      for _, value in pairs(values) do reply:add_header(name, value) end
    end
  end
  reply:add_header("content-type", "application/json; charset=utf-8")
  reply:set_body(body)
  txn:done(reply)
end

core.register_action("rollcall", { "http-req" }, function(txn)
  local told = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if is_own(name) then
      txn.http:req_del_header(name)
    elseif not HOP[name] then
      told[name] = {}
      for _, value in pairs(values) do table.insert(told[name], value) end
    end
  end
  told["host"] = { "rollcall" }
  told["x-forwarded-for"] = { txn.sf:src() }
  told["x-original-method"] = { txn.sf:method() }
  told["x-original-uri"] = { txn.sf:pathq() }
  txn.http:req_set_header("x-forwarded-for", txn.sf:src())

  local answer = core.httpclient():get{ url = ROLLCALL, headers = told, timeout = TIMEOUT_MS }
  local function said(name) return answer.headers and answer.headers[name] and answer.headers[name][0] end
  if not answer or not said("x-request-id") then  -- not Rollcall's: HAProxy's own, where it cannot be reached
    return deny(txn, 503, { ["retry-after"] = { "1" }, ["cache-control"] = { "no-store" } },
      '{"meta": {}, "error": {"message": "Service Unavailable", "code": "SERVICE_UNAVAILABLE", "status": 503}}')
  end
  if answer.status ~= 200 then
    return deny(txn, answer.status, answer.headers, answer.body)
  end
  for _, name in ipairs({ "x-auth-tenant", "x-auth-user", "x-auth-status", "x-auth-expires", "x-request-id" }) do
    if said(name) then txn.http:req_set_header(name, said(name)) end
  end
  for _, name in ipairs({ "ratelimit-policy", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining",
                          "x-ratelimit-reset", "x-degraded", "x-request-id" }) do
    if said(name) then txn:set_var("txn." .. name:gsub("-", "_"), said(name)) end
  end
end)
