"""Files of configurations, and what loading them reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.config.loading import ConfigurationError, load

SHIPPED = ("demo-tenant-token", "demo-operator-token", "demo-signing-secret-for-trying-out-only")


def write(folder: Path, content: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as shown:
        load(path)
    return [str(mistake) for mistake in shown.value.mistakes]
