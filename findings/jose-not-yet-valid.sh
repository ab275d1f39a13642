#!/usr/bin/env bash
# npm's jose 6.2.18 and jsonwebtoken 9.0.3, and PyPI's joserfc 1.8.0, refuse a token as not yet valid that has been valid
# for up to a second, if its issuer writes the time with a fraction: they compare with their own clock cut to the
# second. A token that is used at once after the login fails, and half a second later it is good. PyJWT 2.15.1 and
# python-jose 3.5.0 cut both.
# Guessed before: each takes it. RFC 7519, section 2: a NumericDate may have a fraction, and section 4.1.5: not before
# that time.
source "$(dirname "$0")/common.bash"
npm_packages jose@6.2.18 jsonwebtoken@9.0.3
python_packages joserfc==1.8.0 PyJWT==2.15.1 python-jose==3.5.0
cat >run.js <<'JS'
import { setTimeout } from "node:timers/promises";
import { SignJWT, jwtVerify } from "jose";
import jsonwebtoken from "jsonwebtoken";

const secret = new TextEncoder().encode("0123456789abcdef0123456789abcdef");
await setTimeout(1600 - (Date.now() % 1000)); // to the middle of a second
const now = Date.now() / 1000;
for (const [name, nbf] of [["in whole seconds", Math.floor(now)], ["with a fraction", now - 0.1]]) {
  const token = await new SignJWT({ sub: "a", nbf, exp: Math.floor(now) + 60 }).setProtectedHeader({ alg: "HS256" }).sign(secret);
  const others = jsonwebtoken.verify.bind(null, token, Buffer.from(secret));
  const results = [await jwtVerify(token, secret).then(() => "valid", (error) => error.message)];
  try { others(); results.push("valid"); } catch (error) { results.push(error.message); }
  console.log(`nbf ${name}: jose: ${results[0]}; jsonwebtoken: ${results[1]}`);
}
JS
cat >run.py <<'PY'
import time

import jwt
from jose import jwt as python_jose
from joserfc import jwt as joserfc
from joserfc.jwk import OctKey

secret = "0123456789abcdef0123456789abcdef"
time.sleep(1.6 - time.time() % 1)  # to the middle of a second
now = time.time()
for name, nbf in (("in whole seconds", int(now)), ("with a fraction", now - 0.1)):
    token = jwt.encode({"sub": "a", "nbf": nbf, "exp": int(now) + 60}, secret, algorithm="HS256")
    results = []
    for library, verify in (
        ("joserfc", lambda: joserfc.JWTClaimsRegistry().validate(joserfc.decode(token, OctKey.import_key(secret)).claims)),
        ("PyJWT", lambda: jwt.decode(token, secret, algorithms=["HS256"])),
        ("python-jose", lambda: python_jose.decode(token, secret, algorithms=["HS256"])),
    ):
        try:
            verify()
            results.append(f"{library}: valid")
        except Exception as error:
            results.append(f"{library}: {error}")
    print(f"nbf {name}:", "; ".join(results))
PY
{ node run.js; $python run.py 2>/dev/null; } | expect 'nbf in whole seconds: jose: valid; jsonwebtoken: valid
nbf with a fraction: jose: "nbf" claim timestamp check failed; jsonwebtoken: jwt not active
nbf in whole seconds: joserfc: valid; PyJWT: valid; python-jose: valid
nbf with a fraction: joserfc: invalid_claim: The token is not yet valid; PyJWT: valid; python-jose: valid'
