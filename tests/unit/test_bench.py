"""The arithmetic of `make bench`, without a server."""

from pathlib import Path

import pytest

from bench import beside, embedded
from bench.__main__ import Round, chosen_of, count_of, ratios, redis_table, verification_table
from bench.peers import GO
from bench.rows import BASE, OURS, fresh_name
from bench.servers import Row, asking, constant, in_turn
from bench.tokens import ALGORITHMS, MESSAGE, Fresh, signer

SERVICE = ["python", "-m", "service", "--config", "x"]


def row(name: str, command: list[str] | None = None, connections: int = 64) -> Row:
    return Row(name, command or SERVICE, constant(b""), connections=connections)


def rounds_of(*pairs: tuple[float, float]) -> list[Round]:
    return [Round(cpu, redis, 0, 0, 0) for cpu, redis in pairs]


def test_each_row_of_ours_is_followed_by_the_same_row_of_the_older_commit() -> None:
    found = beside.with_older([row(BASE, ["python", "bare.py"]), row(OURS)], "abc1234", Path("/older"))
    assert [one.name for one in found] == [BASE, OURS, f"{OURS}, abc1234"]
    assert (found[2].directory, found[2].name_before, found[2].command) == (Path("/older"), OURS, SERVICE)


def test_an_older_commit_is_compared_by_the_ratios_of_each_round() -> None:
    rows = beside.with_older([row(OURS)], "abc1234", Path("/older"))
    rounds = {
        OURS: rounds_of((10, 1), (40, 4), (10, 2)),
        f"{OURS}, abc1234": rounds_of((20, 2), (80, 8), (10, 1)),
    }
    assert ratios(rows, rounds) == {f"{OURS}, abc1234": (0.5, 0.5)}


def test_an_unknown_commit_ends_the_run_with_the_words_of_git(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-commit"):
        beside.unpack("no-such-commit", tmp_path)


def test_rows_are_selected_by_any_part_of_a_name_and_bare_aiohttp_stays() -> None:
    rows = [row(BASE), row(OURS), row(GO), row("another")]
    assert [one.name for one in chosen_of(rows, ["Go", "status"])] == [BASE, OURS, GO]
    assert chosen_of(rows, []) == rows


def test_rows_with_few_connections_are_sent_fewer_requests() -> None:
    assert count_of(row(OURS), 8000) == 8000
    assert count_of(row(OURS, connections=1), 8000) == 2000


def test_redis_beside_gos_is_shown_for_the_rows_that_were_measured() -> None:
    assert redis_table({OURS: rounds_of((1, 1))}) == ""
    rounds = {in_turn("Rollcall", 4): rounds_of((0, 5), (0, 6)), in_turn(GO, 4): rounds_of((0, 10), (0, 12))}
    assert redis_table(rounds).splitlines()[2:] == ["| 5,000 users in turn, 4 to the service | 5.5 | 11.0 | 0.50 |"]


def test_a_fresh_token_is_compared_with_a_cached_one_and_its_bare_verification() -> None:
    rounds = {OURS: rounds_of((20, 0), (20, 0)), fresh_name("HS256"): rounds_of((25, 0), (25, 0))}
    assert verification_table(rounds, {"HS256": [5.0, 5.0]}).endswith("| HS256 | 25.0 | 20.0 | 5.0 | 1.00 |")


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_fresh_tokens_are_all_different_and_the_bare_verification_accepts_its_signature(alg: str) -> None:
    one = signer(alg)
    one.verify(one.signature, MESSAGE)
    fresh = Fresh(one)
    fresh.prepare(3)
    raws = [fresh(number) for number in range(3)]
    assert len(set(raws)) == 3
    assert all(raw.count(b"\r\nx-token: ") == 1 for raw in raws)


def test_a_header_that_is_given_replaces_the_one_that_is_usual() -> None:
    assert b"x-token: mine\r\n" in asking("/", x_token="mine")


def test_the_table_of_embedded_servers_has_memory_and_the_medians_of_the_rounds_with_their_range() -> None:
    cpu = {1: [90.0, 80.0, 100.0], 4: [40.0], 16: [25.0], 64: [18.0, 17.0]}
    server = embedded.Measured("Valkey 9.1", 1, None, 1, 6.44, 33.3, cpu, {64: [30.0, 34.0]})
    head, _, row = embedded.table([server], 100_000).splitlines()
    assert head.startswith("| server | RSS empty, MB | RSS, 100,000 users | CPU µs, 1 connection | CPU µs, 4 ")
    cells = ["90.0 (80.0 to 100.0)", "40.0 (40.0 to 40.0)", "25.0 (25.0 to 25.0)", "17.5 (17.0 to 18.0)", "32"]
    assert row == f"| Valkey 9.1 | 6.4 | 33.3 | {' | '.join(cells)} |"
