"""The reference describes what exists, and everything that exists is in it."""

import ast
import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from service.app import make_app
from service.command_line import COMMANDS
from service.config.jwt_settings import Jwt
from service.config.settings import OPERATIONS, Limits, Settings, TenantLimits
from service.core.session_lists import EVENT_TYPES
from service.core.sessions import TRANSITIONS, Cause, Refusal, Status
from service.store.connection.client import RedisAccess
from service.web.admin import routes
from service.web.api.error_responses import CODES
from service.web.api.forward_auth import PROFILES
from service.web.monitoring.metrics import Metrics
from tests.kit import ROOT, settings

REFERENCE = ROOT / "docs" / "reference"
SETTINGS = (REFERENCE / "settings.md").read_text()


def paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every setting of `model`, as the table spells it."""
    found = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if field.annotation == Limits and issubclass(model, TenantLimits):
            path = f"{prefix}OPERATION"
            found.add(path)
            if prefix == "limits.":
                found |= {f"{path}[].{member}" for member in get_args(Limits)[0].model_fields}
            continue
        if field.annotation == Limits or (name == "routes" and prefix):
            found.add(f"{prefix}{name}")  # listed once, elsewhere
            continue
        kinds = list(flat(field.annotation))
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        inside = {dict: ".NAME.", tuple: "[]."}
        if name == "jwt":  # one block or several: the table writes it as one
            found |= {path, *paths(Jwt, f"{path}.")}
            continue
        joint = next((inside[kind] for kind in kinds if kind in inside and models), ".")
        for member in models:
            found |= paths(member, f"{path}{joint}")
        if not models or joint == "[].":
            found.add(path)
    return found


def flat(kind: Any) -> list[Any]:
    """A type and all types inside it."""
    origin = get_origin(kind)
    if origin is None:
        return [kind]
    outer = [] if origin in (Union, UnionType, Annotated) else [origin]
    return outer + [inner for argument in get_args(kind) for inner in flat(argument)]


def test_every_setting_is_in_the_table_and_every_row_is_a_setting() -> None:
    sections = "|".join(Settings.model_fields)
    documented = set(re.findall(rf"^\| `((?:{sections})(?:\.|\[\]|`)[^`|]*)", SETTINGS, re.M))
    documented = {name.strip("` ") for name in documented}
    assert documented == paths(Settings)


def test_the_defaults_in_the_table_are_the_defaults() -> None:
    rows = re.findall(r"^\| `((?:server|redis|sessions)\.[\w.]+)` \| `([^`]*)` \|", SETTINGS, re.M)
    assert len(rows) >= 14
    made = Settings.model_construct(tenants={})
    for path, default in rows:
        value: Any = made
        for part in path.split("."):
            value = getattr(value, part)
        shown = str(value).lower() if isinstance(value, bool) else "[]" if value == () else str(value)
        assert shown == default, path


def test_the_documented_default_limits_are_the_defaults() -> None:
    limits = Settings.model_construct(tenants={}).limits
    made = {name: (limit.requests, limit.window) for name in OPERATIONS for limit in getattr(limits, name)}
    assert made == {
        "logout": (30, 3600),
        "status": (600, 60),
        "terminate": (10, 3600),
        "admin": (600, 60),
        "login": (10, 60),
    }
    documented = "Logout 30 an hour, terminate 10 an hour, status and admin 600 a minute, login 10 a minute"
    assert documented in SETTINGS


ROUTES = ["/auth/logout", "/auth/status", *PROFILES, "/dashboard", "/healthz", "/readyz", "/metrics"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_of_the_table_exists(path: str) -> None:
    app = make_app(settings(), RedisAccess.in_process())
    assert path in {resource.canonical for resource in app.router.resources()}
    assert re.search(
        rf"{path}[`/]", (REFERENCE / "http-api.md").read_text() + (REFERENCE / "forward-auth.md").read_text()
    )


def test_every_route_of_the_admin_api_is_in_its_table_and_every_row_is_a_route() -> None:
    made = set()
    for route in routes.routes(""):
        path = re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", route.path)
        if not re.search(r"/\{tenant\}/user(/|$)", path):  # the same by query, which the page says in a sentence
            made.add((route.method, path or "/admin/v1"))
    rows = re.findall(r"^\| `((?:GET|PUT|POST|DELETE)[^|]*)\|", (REFERENCE / "admin-api.md").read_text(), re.M)
    documented = set()
    for row in rows:
        *methods, path = re.findall(r"[A-Z]{3,}|/[^` ]*", row)
        documented |= {(method, path.partition("?")[0]) for method in methods}
    assert documented == made


def test_the_table_of_actions_is_that_of_the_transitions() -> None:
    acts = {
        "logout": Cause.OPERATOR_LOGOUT,
        "suspend": Cause.SUSPEND,
        "reinstate": Cause.REINSTATE,
        "terminate": Cause.TERMINATE,
    }
    text = (REFERENCE / "admin-api.md").read_text()
    for act, cause in acts.items():
        [row] = re.findall(rf"^\| `{act}` \| (.*) \|$", text, re.M)
        shown = []
        for status in Status:
            to = TRANSITIONS[cause][status]
            refused = {Refusal.UNKNOWN: "404", Refusal.CONFLICT: "409"}
            shown.append(refused[to] if isinstance(to, Refusal) else "stays" if to is status else f"`{to}`")
        assert row.split(" | ") == shown, act


def test_every_error_code_is_documented_with_its_status_and_no_other() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d{3}) \|", (REFERENCE / "http-api.md").read_text(), re.M)
    assert {code: int(status) for code, status in rows} == CODES


def test_every_metric_is_documented_and_no_other() -> None:
    made = set()
    for family in Metrics().registry.collect():
        made.add(f"{family.name}_total" if family.type == "counter" else family.name)
    rows = re.findall(r"^\| `(rollcall_\w+)` \|", (REFERENCE / "monitoring.md").read_text(), re.M)
    assert set(rows) == made


LEVELS = ("debug", "info", "warning", "error")


def logged(tree: ast.Module) -> set[tuple[str, str]]:
    """The level and the event of each line that a module writes to the log; of an f-string what precedes its values."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=level, value=logger), args=[event, *_]) if level in LEVELS:
                if not ast.unparse(logger).endswith("log"):
                    continue
            case ast.Call(func=ast.Name(id="_log"), args=[ast.Constant(value=str(level)), event]):
                pass
            case _:
                continue
        if isinstance(event, ast.JoinedStr):
            event = event.values[0]
        if isinstance(event, ast.Constant):
            found.add((level, str(event.value)))
    return found


def test_every_event_of_the_log_is_documented_with_its_level_and_no_other() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "service").rglob("*.py")]
    written = set().union(*map(logged, trees))
    assert len(written) > 60
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", (REFERENCE / "log.md").read_text(), re.M)
    documented = {(level, event.partition("…")[0]) for event, level in rows}
    missing = [
        one for one in written if not any(one[0] == level and alike(one[1], event) for level, event in documented)
    ]
    assert missing == []
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    long_enough = [text for text in texts if isinstance(text, str) and len(text) > 4]
    assert [event for _, event in documented if not any(alike(text, event) for text in long_enough)] == []


def alike(written: str, event: str) -> bool:
    """Whether the code writes an event of the table, of which either may be the beginning."""
    return written.startswith(event) or (len(written) > 15 and event.startswith(written))


def test_every_type_of_event_is_documented_and_no_other() -> None:
    table = (REFERENCE / "events.md").read_text().partition("## Server-sent events")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.M)) == EVENT_TYPES


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    in_lines = {word for line in re.findall(r"^    make ([a-z -]+)", text, re.M) for word in line.split()}
    in_sentences = set(re.findall(r"`make ([a-z-]+)`", text))
    assert {word for word in in_lines if word in targets or not word.islower()} | in_sentences <= targets
    assert "test" in in_lines
    assert {"help", "run", "test", "lint", "format", "typecheck", "bench"} <= targets


def test_the_table_of_suites_names_every_folder_of_tests_and_the_target_that_runs_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rows = re.findall(r"^\| (.+) \| `make ([a-z-]+)` \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    in_ci = {f"`tests/{name}`": f"test-{name}" for name in re.findall(r"^SUITES = (.+)$", makefile, re.M)[0].split()}
    assert {suite: target for suite, target, when in rows if when == "`.ci/run`"} == in_ci
    folders = {f"tests/{one.parent.name}" for one in (ROOT / "tests").glob("*/test_*.py")}
    assert {suite[1:].partition("`")[0] for suite, _, _ in rows if suite.startswith("`")} == folders
    assert {when for _, _, when in rows} == {"`.ci/run`", "before a release"}
    files = (ROOT / "tests").glob("*/test_*.py")
    marked = {one.parent.name for one in files if re.search(r"pytest\.mark\.alone", one.read_text())}
    assert marked == set(re.findall(r"^MEASURING = (.+)$", makefile, re.M)[0].split())
    recipes = re.findall(r"^([a-z-]+):.*\n((?:\t.+\n)+)", makefile, re.M)
    longer = {
        target
        for target, recipe in recipes
        if re.search(r"-m (pytest|tests\.(chaos|redis_family))|LOCKED= test\b", recipe)
    }
    assert {target for _, target, when in rows if when == "before a release"} == longer


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"^\| `rollcall \[?{command}\b", (REFERENCE / "command-line.md").read_text(), re.M)
