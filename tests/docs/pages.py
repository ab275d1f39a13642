"""The pages of the documentation, and the examples within them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kit import ROOT, Service, needs

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
CHANGES = (
    (r"req-[0-9a-f]{24}", "req-…"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "(a time)"),
    (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "(a date)"),
    (r"(t=|Reset: |After: )(3600|35\d\d)", r"\1(an hour)"),
    (r"\n{2,}", "\n"),
)
"""What differs each time."""


def name(page: Path) -> str:
    """Its path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language, those in lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page.read_text(), re.DOTALL | re.M)
    return [re.sub(rf"^{indent}", "", content, flags=re.M) for indent, content in found]


def snippet(page: Path, language: str, *words: str) -> str:
    """The one fenced block of a page in this language that has all these words."""
    [found] = [one for one in blocks(page, language) if all(word in one for word in words)]
    return found


def session(page: Path) -> tuple[str, str]:
    """All console blocks of a page: the commands, and what they print as shown."""
    lines = "".join(blocks(page, "console")).splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    return "\n".join(commands), "\n".join(line for line in lines if not line.startswith("$ "))


def run(script: str, service: Service) -> str:
    """Paste `script` into a shell, against `service`; returns what it prints."""
    needs("curl and bash", found=bool(shutil.which("curl") and shutil.which("bash")))
    programs = {"rollcall": f"{sys.executable} -m service", "python": sys.executable}
    here = re.sub(r"\.venv/bin/(rollcall|python)", lambda found: programs[found[1]], script)
    here = here.replace(":8080", f":{service.port}")
    done = subprocess.run(["bash", "-ec", here], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def plain(text: str) -> str:
    """`text` without what differs each time."""
    text = text.replace("\r", "")
    for pattern, instead in CHANGES:
        text = re.sub(pattern, instead, text)
    return text.strip()
