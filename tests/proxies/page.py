"""Writes the tables of docs/reference/proxies.md from the rows that the tests hold: `python -m tests.proxies.page`."""

import re

from tests.kit import ROOT
from tests.proxies import test_connections, test_credentials, test_fails_closed, test_identity
from tests.proxies.outcomes import table

PAGE = ROOT / "docs" / "reference" / "proxies.md"
TABLES = {
    "failures": test_fails_closed.FAILURES,
    "marker": test_fails_closed.MARKED,
    "identity": test_identity.ROWS,
    "credentials": test_credentials.ROWS,
    "connections": test_connections.ROWS,
}
"""Name in the page → its rows."""


def with_tables(text: str) -> str:
    """The page's text, each table behind its mark replaced: `<!-- table: identity -->`."""
    for name, rows in TABLES.items():
        mark = f"<!-- table: {name} -->\n"
        before, found, after = text.partition(mark)
        rest = re.sub(r"\A(\|.*\n)*", "", after)
        text = f"{before}{mark}{table(rows)}{rest}" if found else text
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
