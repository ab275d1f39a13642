"""Who may know whom: `core` knows nobody, `store` and `web` know `core` alone, `app` sees all."""

import ast
from pathlib import Path

import pytest

from tests.kit import ROOT

SERVICE = ROOT / "service"
ABOVE = (
    "service.app",
    "service.background",
    "service.config",
    "service.integrations",
    "service.policy_factory",
    "service.serving",
    "service.workers",
)
FOREIGN = {
    "core": (*ABOVE, "service.store", "service.web", "aiohttp", "redis"),
    "store": (*ABOVE, "service.web", "aiohttp"),
    "web": (*ABOVE, "service.store", "redis"),
    "config": ("service.app", "service.web", "service.policy_factory"),
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


def test_the_watchdog_imports_nothing_of_the_service() -> None:
    names = imports(SERVICE / "store" / "embedded" / "watchdog.py")
    assert not any(name.startswith("service") for name in names), "it starts in milliseconds, without this package"


PRIVATE_WORDS = {
    "way",
    "ways",
    "oneway",
    "clusterways",
    "shortway",
    "link",
    "wire",
    "reach",
    "news",
    "pulse",
    "pulses",
    "beat",
    "told",
    "teller",
    "desk",
    "exchange",
    "veil",
    "repeats",
    "moments",
    "hooks",
    "guard",
    "welcome",
    "wording",
    "acts",
    "standing",
}


def test_no_module_class_or_function_is_named_by_a_private_word() -> None:
    for path in SERVICE.rglob("*.py"):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
        for name in (path.stem, *names):
            assert name.replace("_", "").lower() not in PRIVATE_WORDS, f"{path.relative_to(ROOT)}: {name}"


def test_no_folder_of_the_service_holds_more_than_14_modules() -> None:
    for folder in {path.parent for path in SERVICE.rglob("*.py")}:
        modules = len(list(folder.glob("*.py")))
        assert modules <= 14, f"{folder.relative_to(ROOT)} holds {modules} modules"


def test_no_file_of_the_service_is_longer_than_400_lines() -> None:
    for path in SERVICE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(ROOT)} wants to be two files"
