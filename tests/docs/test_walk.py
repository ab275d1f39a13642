"""The README's walk through logout and back, run as it is written."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from tests.kit import ROOT, Service, needs

README = (ROOT / "README.md").read_text()
CHANGES = (
    (r"req-[0-9a-f]{24}", "req-…"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "(a time)"),
    (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "(a date)"),
    (r"(t=|Reset: |After: )(3600|35\d\d)", r"\1(an hour)"),
)


def plain(text: str) -> str:
    """`text` without what is different each time."""
    for pattern, name in CHANGES:
        text = re.sub(pattern, name, text.replace("\r", ""))
    return text.strip()


@pytest.mark.slow
def test_the_walk_shows_what_the_readme_says(start: Callable[..., Service]) -> None:
    needs("curl and bash", found=bool(shutil.which("curl") and shutil.which("bash")))
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    service = start({**shipped, "server": {}}).wait_until_ready()
    shown = "".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
    script = "\n".join(line[2:] for line in shown.splitlines() if line.startswith("$ "))
    script = script.replace(":8080", f":{service.port}").replace(".venv/bin/python", sys.executable)
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = "\n".join(line for line in shown.splitlines() if not line.startswith("$ "))
    assert plain(done.stdout) == plain(expected)
    assert json.loads(done.stdout.splitlines()[0])["data"]["userId"] == "alice"
