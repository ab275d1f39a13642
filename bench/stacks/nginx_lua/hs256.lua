-- Verifies HS256 tokens: HMAC-SHA256 of OpenSSL, which nginx brings along, over LuaJIT's FFI.
local base64 = require "ngx.base64"
local cjson = require "cjson.safe"
local ffi = require "ffi"

ffi.cdef [[
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_sha256(void);
unsigned char *HMAC(const EVP_MD *md, const void *key, int key_len,
                    const unsigned char *d, size_t n, unsigned char *out, unsigned int *out_len);
]]

local sha256 = ffi.C.EVP_sha256()
local mac = ffi.new("unsigned char[32]")
local length = ffi.new("unsigned int[1]")
local match = string.match
local decode_base64url = base64.decode_base64url

local M = {}

-- Whether two strings of the same length are equal, in a time that does not depend on where they differ.
local function same(left, right)
    if #left ~= #right then
        return false
    end
    local differ = 0
    for at = 1, #left do
        differ = bit.bor(differ, bit.bxor(left:byte(at), right:byte(at)))
    end
    return differ == 0
end

-- The claims of a token, or nil where it is not valid.
function M.verify(token, secret)
    local signed, header, payload, signature = match(token, "^(([%w_-]+)%.([%w_-]+))%.([%w_-]+)$")
    if not signed then
        return nil
    end
    local head = cjson.decode(decode_base64url(header) or "")
    if type(head) ~= "table" or head.alg ~= "HS256" then
        return nil
    end
    ffi.C.HMAC(sha256, secret, #secret, signed, #signed, mac, length)
    if not same(ffi.string(mac, 32), decode_base64url(signature) or "") then
        return nil
    end
    local claims = cjson.decode(decode_base64url(payload) or "")
    if type(claims) ~= "table" or type(claims.exp) ~= "number" or type(claims.sub) ~= "string" then
        return nil
    end
    return claims.exp > ngx.time() and claims or nil
end

return M
