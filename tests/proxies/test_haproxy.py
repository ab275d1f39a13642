"""HAProxy's script: what becomes of a request when it fails, and what it hands on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import free_port, wait_for
from tests.proxies.deployment import EXAMPLES, Upstream, listens, running
from tests.proxies.impostor import ADMITTED, Impostor, responds, says
from tests.proxies.test_fails_closed import ANNA, Front
from tests.proxies.versions import PROXIES, Proxy

pytestmark = pytest.mark.slow

SCRIPT = (EXAMPLES / "haproxy" / "rollcall.lua").read_text().splitlines()
FAILS = 'error("broken") '
REFUSAL = responds("401 Unauthorized", "x-request-id: req-1", "content-type: application/json", body=b"{}")


def lines_that_run() -> Iterator[int]:
    """Of the script's functions: where a statement begins."""
    within = False
    for number, line in enumerate(SCRIPT):
        within = within or line.startswith("local function")
        if within and re.match(r" +[a-z]", line) and line.strip() != "end":
            yield number


@pytest.fixture(params=[one for one in PROXIES if one.startswith("haproxy")])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return PROXIES[request.param]


@contextmanager
def fronted(proxy: Proxy, folder: Path, upstream: Upstream, impostor: Impostor, script: list[str]) -> Iterator[Front]:
    """The example with another script, which may run for 0.3 s in place of HAProxy's four."""
    folder.mkdir()
    port = free_port()

    def edit(text: str) -> str:
        if text.startswith(SCRIPT[0]):
            return "\n".join(script).replace("127.0.0.1:8080/", f"127.0.0.1:{impostor.port}/")
        return text.replace("global\n", "global\n    tune.lua.session-timeout 300\n")

    with running(proxy, folder, port, impostor.port, upstream.port, edit) as process:
        wait_for(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "proxy.log").read_text()
        yield Front(proxy, process, port, impostor, upstream)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.close()


def test_wherever_the_script_fails_the_request_is_refused(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)  # skips where the program is missing
    outcomes: dict[str, set[str]] = {"admitted": set(), "refused": set(), "unreachable": set()}
    tried = list(lines_that_run())
    for number in tried:
        broken = [*SCRIPT[:number], FAILS + SCRIPT[number], *SCRIPT[number + 1 :]]
        with fronted(proxy, tmp_path / str(number), upstream, impostor, broken) as front:
            front.impostor.behaviours = {"refused": REFUSAL, "unreachable": says(b"SSH-2.0\r\n")}
            for mark, found in outcomes.items():
                outcome = front.ask(mark)
                found.add(outcome)
                assert outcome in {"admitted": ("503", ANNA)}.get(mark, ("503", "401")), (SCRIPT[number], mark)
            assert front.process.poll() is None
    # It did fail, and only where it came to the line.
    assert len(tried) > 30
    assert outcomes == {"admitted": {"503", ANNA}, "refused": {"503", "401"}, "unreachable": {"503"}}


def test_a_script_that_does_not_end_is_ended_and_the_request_refused(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)
    begin = "  local sent = "
    endless = [line.replace(begin, f'  while txn.sf:path():find("endless") do end\n{begin}') for line in SCRIPT]
    assert endless != SCRIPT
    with fronted(proxy, tmp_path / "endless", upstream, impostor, endless) as front:
        assert front.ask("endless") == "503"
        assert front.ask("next") == ANNA


def test_rollcall_hears_of_a_client_what_it_decides_by_and_nothing_else(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)
    needed = {"x-tenant-token": "t", "x-token": "u", "authorization": "Bearer u", "x-passive": "true"}
    needed["x-request-id"] = "r"
    names = ("cookie", "accept", "user-agent", "x-custom", "prefer", "content-type", "accept-encoding", "te", "range")
    other = dict.fromkeys(names, "of the client")
    with fronted(proxy, tmp_path / "fields", upstream, impostor, SCRIPT) as front:
        assert front.ask("fields", needed | other) == ANNA
    handed_on = dict(line.split(": ", 1) for line in impostor.asked[-1].decode().split("\r\n")[1:-2])
    reported = {"x-forwarded-for": "127.0.0.1", "x-original-method": "POST", "x-original-uri": "/api/payments/fields"}
    assert handed_on | needed | reported == handed_on
    of_haproxy = {"host", "accept", "user-agent"}  # which its HTTP client adds, or we do
    assert handed_on.keys() == {*needed, *reported, *of_haproxy}
    assert "of the client" not in handed_on.values()


def test_a_repeated_field_is_handed_on_as_two_in_their_order(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)
    with fronted(proxy, tmp_path / "fields", upstream, impostor, SCRIPT) as front:
        front.ask("fields", {"x-token": "first\r\nx-token: second\r\nx-token: third\r\nx-token: fourth"})
    assert re.findall(rb"x-token: (\w+)", impostor.asked[-1]) == [b"first", b"second"]


def test_an_unanswered_question_is_asked_again_by_2_6_alone(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)
    with fronted(proxy, tmp_path / "fields", upstream, impostor, SCRIPT) as front:
        impostor.behaviours = {"unanswered": says(b"")}
        assert front.ask("unanswered") == "503"
    assert len(impostor.asked) == (4 if proxy.version == "2.6" else 1)


def test_an_error_that_is_not_rollcalls_is_not_shown_to_the_client(
    proxy: Proxy, tmp_path: Path, upstream: Upstream, impostor: Impostor
) -> None:
    proxy.command(1)
    with fronted(proxy, tmp_path / "fields", upstream, impostor, SCRIPT) as front:
        impostor.behaviours = {"own": REFUSAL, "foreign": responds("401 Unauthorized", *ADMITTED[:1])}
        assert [front.ask("own"), front.ask("foreign")] == ["401", "503"]
