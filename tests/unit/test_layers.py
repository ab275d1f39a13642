"""Who may know whom: `core` knows nobody, `store` and `web` know `core` alone, `app` sees all."""

import ast
from pathlib import Path

import pytest

from tests.kit import ROOT

SERVICE = ROOT / "service"
FOREIGN = {
    "core": (
        "service.store",
        "service.web",
        "service.app",
        "service.policy_factory",
        "service.config.settings",
        "aiohttp",
        "redis",
    ),
    "store": ("service.web", "service.app", "service.policy_factory", "service.config.settings", "aiohttp"),
    "web": ("service.store", "service.app", "service.policy_factory", "service.config.settings", "redis"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("layer", FOREIGN)
def test_a_layer_imports_nothing_it_may_not_know(layer: str) -> None:
    for path in (SERVICE / layer).rglob("*.py"):
        for name in imports(path):
            wrong = [far for far in FOREIGN[layer] if name == far or name.startswith(f"{far}.")]
            assert not wrong, f"{path.relative_to(ROOT)} imports {name}"


def test_the_guard_stands_alone() -> None:
    names = imports(SERVICE / "store" / "guard.py")
    assert not any(name.startswith("service") for name in names), "it starts in milliseconds, without this package"


def test_no_file_of_the_service_is_longer_than_400_lines() -> None:
    for path in SERVICE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(ROOT)} wants to be two files"
