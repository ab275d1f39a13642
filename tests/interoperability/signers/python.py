"""Signs with Python's libraries: PyJWT, joserfc, Authlib, jwcrypto, python-jose."""

import json
import sys
from importlib.metadata import version
from typing import Any

request = json.load(sys.stdin)
CLAIMS = request["claims"]


def pyjwt(alg: str, key: dict[str, Any]) -> str:
    import jwt

    return jwt.encode(CLAIMS, key.get("secret") or key["pem"], algorithm=alg)


def joserfc(alg: str, key: dict[str, Any]) -> str:
    from joserfc import jwk, jwt

    made = jwk.import_key(key.get("secret") or key["pem"], "oct" if "secret" in key else key["kty"])
    return jwt.encode({"alg": alg}, CLAIMS, made, algorithms=[alg])


def authlib(alg: str, key: dict[str, Any]) -> str:
    from authlib.jose import JsonWebToken

    return JsonWebToken([alg]).encode({"alg": alg}, CLAIMS, key.get("secret") or key["pem"]).decode()


def jwcrypto(alg: str, key: dict[str, Any]) -> str:
    from jwcrypto import jwk, jwt

    made = jwk.JWK(**key["jwk"]) if "secret" in key else jwk.JWK.from_pem(key["pem"].encode())
    token = jwt.JWT(header={"alg": alg}, claims=CLAIMS, algs=[alg])
    token.make_signed_token(made)
    return str(token.serialize())


def python_jose(alg: str, key: dict[str, Any]) -> str:
    from jose import jwt

    return str(jwt.encode(CLAIMS, key.get("secret") or key["pem"], algorithm=alg))


LIBRARIES = {
    "PyJWT": pyjwt,
    "joserfc": joserfc,
    "Authlib": authlib,
    "jwcrypto": jwcrypto,
    "python-jose": python_jose,
}
for name, sign in LIBRARIES.items():
    for alg, key in request["keys"].items():
        line = {"library": name, "version": version(name), "alg": alg}
        try:
            line["token"] = sign(alg, key)
        except Exception as error:  # the library does not sign so
            line["error"] = type(error).__name__
        sys.stdout.write(f"{json.dumps(line)}\n")
