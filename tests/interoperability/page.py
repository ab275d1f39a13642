"""Writes docs/reference/signing-libraries.md: `python -m tests.interoperability.page`."""

import sys
import tempfile
from pathlib import Path

from service.core.tokens.keys import ALGORITHMS
from tests.interoperability.signing import LANGUAGES, Missing, Signed, judged
from tests.kit import ROOT

PAGE = ROOT / "docs" / "reference" / "signing-libraries.md"
HEAD = """# Signing libraries

Each library signs a token with its default settings. The service judges it with the public key as an export of a key
has it: a JWK without `kid` and `alg`. `make interoperability` repeats this and writes the table.

- **yes**: the service accepts the token.
- **not offered**: the library, in this version, does not sign with this algorithm.
- **no**: the service refuses the token; see below the table.

"""
FOOT = """
erlang-jose signs PS256, PS384 and PS512 with the longest salt that fits into the key. RFC 7518, section 3.5 asks for a
salt of the length of the hash, so the service refuses these tokens, as other strict verifiers do. Sign with RS256,
ES256 or EdDSA instead.
"""


def main() -> int:
    rows: dict[tuple[str, str, str], dict[str, Signed]] = {}
    for language, sign in LANGUAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                for one in sign(Path(folder)):
                    rows.setdefault((one.library, one.version, language), {})[one.alg] = one
            except Missing as missing:
                sys.stderr.write(f"{language} is left out: {missing}\n")
                return 1
    lines = ["| library | language | " + " | ".join(ALGORITHMS) + " |", "|---|---|" + "---|" * len(ALGORITHMS)]
    for (library, version, language), made in rows.items():
        cells = " | ".join(_cell(made.get(alg)) for alg in ALGORITHMS)
        lines.append(f"| {library} {version} | {language} | {cells} |")
    PAGE.write_text(HEAD + "\n".join(lines) + "\n" + FOOT)
    return 0


def _cell(one: Signed | None) -> str:
    if one is None or one.token is None:
        return "not offered"
    return "yes" if judged(one.alg, one.token) == "accepted" else "no"


if __name__ == "__main__":
    sys.exit(main())
