"""What the signing libraries of seven languages sign, the service accepts, or says why not."""

from pathlib import Path

import pytest

from service.core.tokens.keys import ALGORITHMS
from tests.interoperability.signing import LANGUAGES, Missing, judged

pytestmark = pytest.mark.timeout(300)
REFUSED = {
    # Its PS256 has the longest salt that fits; RFC 7518, section 3.5 asks for the length of the hash.
    ("erlang-jose", "PS256"): "no key verifies the signature",
    ("erlang-jose", "PS384"): "no key verifies the signature",
    ("erlang-jose", "PS512"): "no key verifies the signature",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_library_signs_by_default_is_accepted(language: str, tmp_path: Path) -> None:
    try:
        signed = list(LANGUAGES[language](tmp_path))
    except Missing as missing:
        pytest.skip(str(missing))
    assert {one.alg for one in signed} <= set(ALGORITHMS)
    made = [one for one in signed if one.token is not None]
    assert {one.library for one in made} == {one.library for one in signed}, "each library signs something"
    results = {(one.library, one.alg): judged(one.alg, one.token or "") for one in made}
    assert results == {key: REFUSED.get(key, "accepted") for key in results}
