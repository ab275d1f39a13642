"""Links lead somewhere, every page can be found, the examples in them are valid, and the prose is plain."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from service.config.loading import load
from tests.docs.pages import PAGES, blocks, name
from tests.kit import ROOT

INDEX = ROOT / "docs" / "README.md"
PRIVATE_WORDS = {
    "is told, tells, who is told": r"\b(?:told|tells|telling)\b",
    "who asks": r"\b(?:who|whoever|nobody|somebody) asks?\b",
    "in our words": r"\bin (?:our|its|their) words\b",
    "stands": r"\bstands?\b(?! for)|\bstood\b",
    "what for": r"\bwhat for\b",
}
"""Idioms that a reader has to read twice → what finds them."""


def prose(page: Path) -> str:
    """A page without code, which may hold names of tests."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.M)
    text = re.sub(r"^    .*$", "", text, flags=re.M)
    return re.sub(r"`[^`]*`", "", text)


def anchors(page: Path) -> set[str]:
    """What `#…` can lead to, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[str, Path, str]]:
    """The links of a page into the repository: as written, their file, their anchor."""
    found = []
    for written in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:", written):
            path, _, anchor = written.partition("#")
            found.append((written, (page.parent / path).resolve() if path else page, anchor))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for written, target, anchor in links(page):
        assert target.exists(), written
        if anchor:
            assert anchor in anchors(target), written


def test_every_page_is_in_the_index() -> None:
    listed = {target for _, target, _ in links(INDEX)}
    assert [name(page) for page in PAGES if page.is_relative_to(INDEX.parent) and page not in {*listed, INDEX}] == []


def test_every_page_is_of_one_kind() -> None:
    kinds = {page.parent.name for page in (ROOT / "docs").rglob("*.md")}
    assert kinds == {"docs", "how-to", "reference", "explanation"}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == {"README.md", "getting-started.md"}


def test_the_readme_is_short_and_leads_to_the_documentation() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().split()) <= 700
    assert INDEX in {target for _, target, _ in links(readme)}


def test_where_to_find_it_names_files_that_exist_and_have_the_names() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = re.search(r"^## Where to find it\n(.*?)^## ", text, re.M | re.DOTALL)
    assert table is not None
    rows = [row.split("|")[2:4] for row in re.findall(r"^\| .*`.*$", table[1], re.M)][1:]
    assert len(rows) > 15
    for places, names in rows:
        content = "".join((ROOT / "service" / place).read_text() for place in re.findall(r"`([^`]+)`", places))
        for found in re.findall(r"`([^`]+)`", names):
            assert re.search(rf"(?:def|class|function) {found}\b|^{found}\b|{{.*\b{found}\b", content, re.M), found


def test_the_screenshot_of_the_dashboard_is_small() -> None:
    [picture] = (ROOT / "docs").glob("*.png")
    assert picture in {target for _, target, _ in links(ROOT / "README.md")}
    assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_configuration_that_a_page_shows_is_valid(page: Path, tmp_path: Path) -> None:
    for number, shown in enumerate(blocks(page, "yaml")):
        content = yaml.safe_load((ROOT / "config.yaml").read_text())
        content.update(yaml.safe_load(shown))
        content["admin"]["tokens"][0]["tenants"] = ["*"]
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(content))
        load(file)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_python_that_a_page_shows_is_python(page: Path) -> None:
    for shown in blocks(page, "python"):
        ast.parse(shown)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_speaks_the_private_idiom(page: Path) -> None:
    text = prose(page)
    assert {
        idiom: found for idiom, pattern in PRIVATE_WORDS.items() if (found := re.findall(pattern, text, re.I))
    } == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_holds_the_marks_of_a_merge(page: Path) -> None:
    assert re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", page.read_text(), re.M) == []


def test_every_finding_is_in_its_list_with_what_was_expected() -> None:
    folder = ROOT / "findings"
    scripts = {path.stem: path.read_text() for path in folder.glob("*.sh")}
    listed = re.findall(r"^\| `([\w-]+)` \|", (folder / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(scripts)
    for script_name, text in scripts.items():
        assert re.search("# (?:Guessed before|Expected): ", text), script_name
        assert re.search(r"(?:python|npm)_packages .*\d", text), f"{script_name} pins no package"
        assert "expect " in text, f"{script_name} compares nothing"


IDIOM = {
    "is told": r"\btold\b",
    "who asks": r"\b(?:who|whoever|nobody|somebody) asks?\b",
    "in our words": r"\bin (?:our|its|their|[a-z]+'s) (?:own )?words\b",
    "stands": r"\bstands?\b(?! for)|\bstood\b",
}
"""The same idioms in code, comments, messages and tests."""
SOURCES = ("service", "tests", "examples", "bench", "Makefile", "config.yaml")
AT_MOST = 5


@pytest.mark.parametrize("idiom", IDIOM)
def test_code_and_tests_do_not_speak_the_private_idiom_either(idiom: str) -> None:
    suffixes = {".py", ".lua", ".js", ".ts", ".html", ".yaml", ".yml", ".conf", ".cfg", ".md", ""}
    files = [ROOT / source for source in SOURCES]
    files += [file for folder in files if folder.is_dir() for file in folder.rglob("*") if file.suffix in suffixes]
    skipped = {Path(__file__), ROOT / "tests" / "unit" / "test_layers.py"}  # they list the words
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.is_file() and file not in skipped and not {"node_modules", "__pycache__"} & set(file.parts)
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
        if re.search(IDIOM[idiom], line, re.I)
    ]
    assert len(found) <= AT_MOST, found
