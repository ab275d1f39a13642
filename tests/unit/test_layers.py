"""Who may know whom: `core` knows nobody, `store` and `web` know `core` alone, `app` sees all."""

import ast
import re
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
    "service.process",
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
    for path in (*SERVICE.rglob("*.py"), *SERVICE.rglob("*.lua")):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(ROOT)} wants to be two files"


def test_no_file_of_the_tests_is_longer_than_400_lines() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(ROOT)} wants to be two files"


def test_what_a_docstring_names_by_its_path_exists() -> None:
    """Files such as `core/sessions.py` or `lua/admit.lua`, and names such as `core.leftovers.Leftovers`."""
    texts = {path.relative_to(SERVICE).as_posix(): path.read_text() for path in SERVICE.rglob("*.*") if path.is_file()}
    for place, text in texts.items():
        if not place.endswith((".py", ".lua")):
            continue
        for named in re.findall(r"(?<![\w/])((?:[\w-]+/)*\w+\.(?:py|lua))\b", text):
            found = any(one == named or one.endswith(f"/{named}") for one in texts) or (ROOT / named).exists()
            assert found, f"{place} names {named}"
        for module, name in re.findall(r"`((?:core|store|web|config|background|process)\.[a-z_.]+)\.([A-Z]\w+)`", text):
            assert f"class {name}" in texts.get(f"{module.replace('.', '/')}.py", ""), f"{place} names {module}.{name}"


DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Names of the standard library that begin with an underscore and are documented."""


def private_names(tree: ast.Module) -> set[str]:
    """Names that begin with an underscore and are another's: imported, of another object, or inherited."""
    imported, own, inherited, defined = set(), {"self", "cls"}, set(), set()
    others: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                inherited.add(name)
            case ast.Attribute(value=ast.Name(id=whose), attr=name):
                others.append((whose, name))
            case ast.Attribute(attr=name):
                others.append(("", name))
            case ast.ImportFrom(module=module, names=names):
                imported |= {
                    part for one in (module or "", *(alias.name for alias in names)) for part in one.split(".")
                }
            case ast.Import(names=names):
                imported |= {part for alias in names for part in alias.name.split(".")}
    used = imported | (inherited - defined) | {name for whose, name in others if whose not in own}
    return {name for name in used if name.startswith("_") and not name.endswith("__")}


def test_no_private_name_of_another_package_is_used() -> None:
    found = {
        (str(path.relative_to(SERVICE)), name)
        for path in SERVICE.rglob("*.py")
        for name in private_names(ast.parse(path.read_text())) - DOCUMENTED
    }
    assert not found


def test_every_background_task_reports_its_failures_to_the_metric() -> None:
    """Those that a task starts beside itself report under its name (their context is its copy)."""
    inherit = {"webhook_delivery.py", "sentinels.py"}
    without: list[str] = []
    for path in sorted(SERVICE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if named and node.func.id in ("keep_running", "run_to_end") and len(node.args) < 3:  # type: ignore[attr-defined]
                without.append(path.name)
    assert set(without) == inherit
