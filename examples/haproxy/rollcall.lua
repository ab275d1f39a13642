-- Asks Rollcall about a request, without its body, and answers a refusal.
-- Source: HAProxy's Lua API, classes HTTP, HTTPClient (2.5 and newer) and Reply. HAProxy's tables of values begin at 0.
--
-- HAProxy continues with its next rule when a script fails, whatever the failure. So the script marks an admission in its
-- last statement, and the next rule in haproxy.cfg refuses a request without the mark.

local ROLLCALL = "http://127.0.0.1:8080/auth/verify/haproxy"
local TIMEOUT_MS = 2000  -- of one attempt; HAProxy before 2.8 makes up to four

-- The client's fields that Rollcall reads. The script passes on no others, and at most two values of each, because
-- HAProxy's HTTP client does not expect arbitrary fields.
local ASKED_WITH = { "x-tenant-token", "x-token", "authorization", "x-passive", "x-request-id" }

-- The fields of an admission for the API, and those for the client.
local FOR_API = { "x-auth-tenant", "x-auth-user", "x-auth-status", "x-auth-expires", "x-request-id" }
local FOR_CLIENT = { "ratelimit-policy", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining",
                     "x-ratelimit-reset", "x-degraded", "x-request-id" }

-- Fields that concern only the connection to Rollcall, or that HAProxy sets itself.
local NOT_OF_A_REFUSAL = { ["connection"] = true, ["keep-alive"] = true, ["content-length"] = true,
                           ["transfer-encoding"] = true, ["content-type"] = true, ["server"] = true, ["date"] = true }

local UNAVAILABLE =
  '{"meta": {}, "error": {"message": "Service Unavailable", "code": "SERVICE_UNAVAILABLE", "status": 503}}\n'

-- The first two values of a field: Rollcall only has to see that it is repeated.
local function first_two(values)
  return { values[0], values[1] }
end

local function deny(txn, status, headers, body)
  local reply = txn:reply()
  reply:set_status(status)
  for name, values in pairs(headers) do
    if not NOT_OF_A_REFUSAL[name] then
      for _, value in pairs(values) do reply:add_header(name, value) end
    end
  end
  reply:add_header("content-type", "application/json; charset=utf-8")
  reply:set_body(body)
  txn:done(reply)
end

core.register_action("rollcall", { "http-req" }, function(txn)
  local sent = txn.http:req_get_headers()
  local asked = {}
  for _, name in ipairs(ASKED_WITH) do
    if sent[name] then asked[name] = first_two(sent[name]) end
  end
  asked["host"] = { "rollcall" }
  asked["x-forwarded-for"] = { txn.sf:src() }
  asked["x-original-method"] = { txn.sf:method() }
  asked["x-original-uri"] = { txn.sf:pathq() }

  local answer = core.httpclient():get{ url = ROLLCALL, headers = asked, timeout = TIMEOUT_MS }
  local function said(name) return answer.headers and answer.headers[name] and answer.headers[name][0] end
  local admitted = answer and answer.status == 200 and said("x-auth-admitted") == "1"
  if not admitted then
    -- Only an error of Rollcall itself goes to the client: HAProxy also says 503 if it cannot reach Rollcall.
    if answer and answer.status >= 400 and said("x-request-id") then
      return deny(txn, answer.status, answer.headers, answer.body)
    end
    return deny(txn, 503, { ["retry-after"] = { "1" }, ["cache-control"] = { "no-store" } }, UNAVAILABLE)
  end
  for _, name in ipairs(FOR_API) do
    if said(name) then txn.http:req_set_header(name, said(name)) end
  end
  -- HAProxy silently leaves a field out if the request has no room for it: a client with a long id and long fields could
  -- remove its identity. Such a request gets no mark, and is refused.
  local passed_on = txn.http:req_get_headers()
  for _, name in ipairs(FOR_API) do
    if said(name) and not (passed_on[name] and passed_on[name][0] == said(name)) then return end
  end
  for _, name in ipairs(FOR_CLIENT) do
    if said(name) then txn:set_var("txn." .. name:gsub("-", "_"), said(name)) end
  end
  txn:set_var("txn.rollcall_admitted", "1")
end)
