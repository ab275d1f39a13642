"""The commands of the documentation are run as they are written, against the shipped configuration."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import plain, run, session
from tests.kit import ROOT, Service

pytestmark = pytest.mark.slow
DOCS = ROOT / "docs"


@pytest.fixture
def shipped(start: Callable[..., Service]) -> Service:
    """A service with the shipped configuration, on a port of its own."""
    content = yaml.safe_load((ROOT / "config.yaml").read_text())
    return start({**content, "server": {}}).wait_until_ready()


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "getting-started.md"], ids=lambda page: page.name)
def test_a_page_s_commands_print_what_it_shows(page: Path, shipped: Service) -> None:
    commands, shown = session(page)
    assert plain(run(commands, shipped)) == plain(shown)


def test_the_commands_for_operators_all_succeed(shipped: Service) -> None:
    commands, _ = session(DOCS / "how-to" / "manage-users.md")
    answers = [json.loads(line) for line in run(commands, shipped).splitlines() if line]
    assert len(answers) == 13
    assert all("data" in answer for answer in answers), "no command ends in an error"
    listed = next(answer["data"]["sessions"] for answer in answers if "sessions" in answer["data"])
    assert [one["userId"] for one in listed] == ["bob", "alice"]
    results = next(answer["data"]["results"] for answer in answers if "results" in answer["data"])
    assert [one["done"] for one in results] == [True, True]


def test_the_command_that_follows_events_shows_them_and_ends(shipped: Service) -> None:
    commands, _ = session(DOCS / "how-to" / "follow-events.md")
    assert "timeout 5 " in commands, "the stream itself never ends"
    assert "event: ready" in run(commands.replace("timeout 5 ", "timeout 1 "), shipped)
