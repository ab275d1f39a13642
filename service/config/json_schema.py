"""The JSON Schema of the configuration file, for editors: `rollcall config schema`."""

import json
from typing import Any

from service.config.settings import Settings


def schema_text() -> str:
    """Return the schema as JSON text.

    It knows names, types and ranges. What depends on several settings only `rollcall check` finds.
    """
    described = _tidied(Settings.model_json_schema())
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rollcall's configuration",
        **described,
        "description": "docs/reference/settings.md describes every setting.",
    }
    return f"{json.dumps(described, indent=2, ensure_ascii=False)}\n"


def _tidied(schema: Any) -> Any:
    """Drop the titles that pydantic makes of names (an editor would show them); refuse names that fit no pattern."""
    if isinstance(schema, dict):
        tidied = {
            name: _tidied(value) for name, value in schema.items() if not (name == "title" and isinstance(value, str))
        }
        if "patternProperties" in tidied:
            tidied.setdefault("additionalProperties", False)
        return tidied
    return [_tidied(one) for one in schema] if isinstance(schema, list) else schema
