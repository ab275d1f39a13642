"""Runs the signers of `signers/`, and has the service judge what they sign."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.core.errors import DomainError
from service.core.tokens.key_sets import KeyRules, read_key_set
from service.core.tokens.keys import ALGORITHMS, SYMMETRIC, make_key
from service.core.tokens.verification import KeyRing
from tests.kit import ROOT, find_node

SIGNERS = Path(__file__).parent / "signers"
PACKAGES = ROOT / ".venv" / "interoperability"
"""Where `make interoperability` installs the libraries of npm and PyPI."""
GOCODE = Path("/usr/share/gocode")
SECRET = "0123456789abcdef" * 4
CLAIMS = {"sub": "alice", "exp": int(time.time()) + 3600}
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATES: dict[str, Any] = {
    **{alg: RSA for alg in ALGORITHMS if alg[:2] in ("RS", "PS")},
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@dataclass(frozen=True, slots=True)
class Signed:
    """What a library made of an algorithm."""

    library: str
    version: str
    alg: str
    token: str | None
    """None: the library does not sign so."""


class Missing(Exception):
    """A program or library that a signer needs is not installed; names it."""


@cache
def request() -> str:
    """What signers read: the claims, and a key for each algorithm in the forms that libraries take."""
    keys: dict[str, Any] = {}
    for alg in ALGORITHMS:
        if alg in SYMMETRIC:
            jwk = json.loads(jwt.algorithms.HMACAlgorithm.to_jwk(SECRET.encode()))
            keys[alg] = {"secret": SECRET, "jwk": jwk}
            continue
        private = PRIVATES[alg]
        jwk = jwt.get_algorithm_by_name(alg).to_jwk(private, as_dict=True)
        jwk.pop("key_ops", None)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        keys[alg] = {"kty": jwk["kty"], "pem": pem, "jwk": jwk}
    return json.dumps({"claims": CLAIMS, "keys": keys})


def judged(alg: str, token: str) -> str:
    """Return what the service says of a token: `accepted`, or why not. The key is published as libraries export it."""
    if alg in SYMMETRIC:
        ring = KeyRing("acme", [make_key(None, alg, SECRET)])
    else:
        exported = jwt.get_algorithm_by_name(alg).to_jwk(PRIVATES[alg].public_key(), as_dict=True)
        ring = KeyRing("acme", [])
        ring.replace_remote(read_key_set(json.dumps({"keys": [exported]}).encode(), KeyRules()).keys)
    try:
        identity = ring.verify(token, time.time())
    except DomainError as error:
        return str(getattr(error, "reason", error))
    return "accepted" if identity.user == "alice" else f"the user is {identity.user}"


def _lines(command: Sequence[str | Path], **environment: str) -> Iterator[Signed]:
    made = subprocess.run(
        [str(part) for part in command],
        input=request(),
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if made.returncode:
        raise Missing((made.stderr.strip().splitlines() or ["it failed"])[-1])
    for text in made.stdout.splitlines():
        line = json.loads(text)
        yield Signed(line["library"], line["version"], line["alg"], line.get("token"))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def _debian_version(package: str) -> str:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], check=False, capture_output=True, text=True
    )
    return done.stdout.partition("-")[0] or "unknown"


def python(_: Path) -> Iterator[Signed]:
    if not (PACKAGES / "python").is_dir():
        raise Missing("the libraries of PyPI: make interoperability installs them")
    return _lines([sys.executable, SIGNERS / "python.py"], PYTHONPATH=str(PACKAGES / "python"))


def node(_: Path) -> Iterator[Signed]:
    program = find_node()
    if program is None or not (PACKAGES / "node_modules").is_dir():
        raise Missing("Node or the libraries of npm: make interoperability installs them")
    return _lines([program, SIGNERS / "node.mjs", PACKAGES])


def go(folder: Path) -> Iterator[Signed]:
    binary = folder / "signer"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": ""}
    build = [_program("go"), "build", "-o", str(binary), str(SIGNERS / "main.go")]
    built = subprocess.run(build, env=environment, check=False, capture_output=True, text=True, timeout=120)
    if built.returncode:
        raise Missing(f"golang-jwt or go-jose: {built.stderr.strip().splitlines()[-1]}")
    versions = ("golang-github-golang-jwt-jwt-dev", "golang-gopkg-square-go-jose.v2-dev")
    return _lines([binary, *map(_debian_version, versions)])


def ruby(_: Path) -> Iterator[Signed]:
    return _lines([_program("ruby"), SIGNERS / "ruby.rb"])


def perl(_: Path) -> Iterator[Signed]:
    return _lines([_program("perl"), SIGNERS / "perl.pl"])


def _each(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield each algorithm with files of its JWK and of the claims, for programs that read files."""
    payload = folder / "claims.json"
    payload.write_text(json.dumps(CLAIMS))
    for alg, key in json.loads(request())["keys"].items():
        path = folder / f"{alg}.json"
        path.write_text(json.dumps(key["jwk"]))
        yield alg, path, payload


def jose(folder: Path) -> Iterator[Signed]:
    program = _program("jose")
    for alg, key, payload in _each(folder):
        head = json.dumps({"protected": {"alg": alg}})
        command = [program, "jws", "sig", "-c", "-s", head, "-I", str(payload), "-k", str(key)]
        made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        token = made.stdout.strip() if made.returncode == 0 else None
        yield Signed("jose (C)", _debian_version("jose"), alg, token)


def erlang(folder: Path) -> Iterator[Signed]:
    program = _program("escript")
    for alg, key, payload in _each(folder):
        command = [program, str(SIGNERS / "erlang.escript"), alg, str(key), str(payload)]
        made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        version, _, token = made.stdout.strip().partition(" ")
        if made.returncode:
            version = _debian_version("erlang-jose")
        yield Signed("erlang-jose", version, alg, token if made.returncode == 0 else None)


LANGUAGES = {
    "Python": python,
    "JavaScript": node,
    "Go": go,
    "Ruby": ruby,
    "Perl": perl,
    "C": jose,
    "Erlang": erlang,
}
