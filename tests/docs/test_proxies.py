"""docs/reference/proxies.md shows what the tests of the proxies hold."""

from tests.proxies.page import PAGE, TABLES, with_tables


def test_the_page_shows_the_rows_that_the_tests_hold() -> None:
    text = PAGE.read_text()
    assert all(f"<!-- table: {name} -->" in text for name in TABLES)
    assert with_tables(text) == text, "python -m tests.proxies.page"
