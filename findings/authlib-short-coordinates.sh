#!/usr/bin/env bash
# Authlib 1.9.10 exports the coordinates of an elliptic-curve key as plain numbers, without their leading zeros. About
# one P-256 key in 128 gets an `x` or `y` of 31 bytes. PyJWT 2.15.1 refuses such a key, and with it every token of the
# issuer. RFC 7638's thumbprint, which Authlib takes as `kid`, differs from that of other libraries, too.
# Guessed before: 32 bytes always. RFC 7518, section 6.2.1.2: "the length of this octet string MUST be the full size".
source "$(dirname "$0")/common.bash"
python_packages authlib==1.9.10 joserfc==1.8.0 PyJWT==2.15.1 cryptography==50.0.2
cat >run.py <<'PY'
import warnings

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey as Other

warnings.simplefilter("ignore")
from authlib.jose import ECKey  # noqa: E402

# One key of many, the same at each run: its x begins with a zero.
public = ec.derive_private_key(379, ec.SECP256R1()).public_key()
pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
for name, kind in (("Authlib", ECKey), ("joserfc", Other)):
    key = kind.import_key(pem)
    member = key.as_dict()
    length = len(jwt.utils.base64url_decode(member["x"]))
    try:
        jwt.PyJWK(member, algorithm="ES256")
        taken = "takes it"
    except jwt.PyJWTError as error:
        taken = f"refuses it: {error}"
    print(f"{name}: x of {length} bytes, thumbprint {key.thumbprint()}; PyJWT {taken}")
PY
$python run.py 2>/dev/null | expect 'Authlib: x of 31 bytes, thumbprint cqdWPhcnF9DHfVHOTKaBvs582HJ6LmX0fEgRXTtiGFU; PyJWT refuses it: Coords should be 32 bytes for curve P-256
joserfc: x of 32 bytes, thumbprint 7Yxe6c_3bAa6kiaK1G-BZmi9EeNsUmlcbdnrtLeuK4E; PyJWT takes it'
