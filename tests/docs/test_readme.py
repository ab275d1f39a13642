"""What the documentation promises exists, and what exists is documented."""

import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from service.app import make_app
from service.settings import OPERATIONS, Limits, Settings, TenantLimits
from service.store.connection import RedisAccess
from service.web.forward_auth import PROFILES
from tests.kit import ROOT, settings

README = (ROOT / "README.md").read_text()


def paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every setting of `model`, as the README spells it."""
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
            found.add(f"{prefix}{name}")  # told once, elsewhere
            continue
        kinds = list(flat(field.annotation))
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        inside = {dict: ".NAME.", tuple: "[]."}
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
    documented = set(re.findall(rf"^\| `((?:{sections})(?:\.|\[\]|`)[^`|]*)", README, re.M))
    documented = {name.strip("` ") for name in documented}
    assert documented == paths(Settings)


def test_the_defaults_in_the_table_are_the_defaults() -> None:
    rows = re.findall(r"^\| `((?:server|redis|sessions)\.[\w.]+)` \| `([^`]*)` \|", README, re.M)
    assert len(rows) >= 14
    made = Settings.model_construct()
    for path, default in rows:
        value: Any = made
        for part in path.split("."):
            value = getattr(value, part)
        shown = str(value).lower() if isinstance(value, bool) else "[]" if value == () else str(value)
        assert shown == default, path


def test_the_limits_that_are_told_are_those_that_hold() -> None:
    limits = Settings.model_construct().limits
    told = {name: (limit.requests, limit.window) for name in OPERATIONS for limit in getattr(limits, name)}
    assert told == {
        "logout": (30, 3600),
        "status": (600, 60),
        "terminate": (10, 3600),
        "admin": (600, 60),
        "login": (10, 60),
    }


ROUTES = ["/auth/logout", "/auth/status", *PROFILES, "/dashboard", "/healthz", "/readyz", "/metrics"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_of_the_table_is_there(path: str) -> None:
    app = make_app(settings(), RedisAccess.in_process())
    assert path in {resource.canonical for resource in app.router.resources()}
    assert re.search(rf"{path}[`/]", README)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        named = {word for line in re.findall(r"^    make ([a-z ]+)", text, re.M) for word in line.split()}
        assert {word for word in named if word in targets or not word.islower()} <= targets
        assert "test" in named
    assert {"help", "run", "test", "lint", "format", "typecheck", "bench"} <= targets
