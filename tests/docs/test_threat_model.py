"""The threat model names tests that exist."""

import re

import pytest

from tests.kit import ROOT

PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_]+/test_[a-z_0-9]+\.py(?:::[a-z_0-9]+)?)`", PAGE)))


def test_it_names_many() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_each_proof_is_a_test(name: str) -> None:
    path, _, test = name.partition("::")
    text = (ROOT / "tests" / path).read_text()
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE) if test else text
