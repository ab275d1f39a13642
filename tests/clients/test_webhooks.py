"""The libraries of npm that verify Standard Webhooks accept what the service signs."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from service.core.webhooks import key_of, signed
from tests.unit.test_webhooks import BODY, NEW, OLD, OTHER

FOLDER = Path(__file__).parent
BOTH = {"standardwebhooks": True, "svix": True}
NEITHER = {"standardwebhooks": "No matching signature found", "svix": "No matching signature found"}


def verified(*cases: tuple[str, tuple[str, ...], bytes]) -> list[dict[str, Any]]:
    """What each library says: the receiver's secret, those that sign, the body that arrives."""
    messages = []
    for secret, signing, body in cases:
        headers = signed([key_of(one) for one in signing], "acme.1-0", int(time.time()), BODY)
        messages.append({"secret": secret, "headers": dict(headers), "body": body.decode()})
    command = ["node", "verify.mjs"]
    done = subprocess.run(command, cwd=FOLDER, input=json.dumps(messages), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_libraries_accept_a_message_that_is_signed_with_their_secret_and_no_other() -> None:
    cases = [(OLD, (OLD,), BODY), (OTHER, (OTHER,), BODY), (OLD, (OLD,), BODY + b" "), (OTHER, (OLD,), BODY)]
    assert verified(*cases) == [BOTH, BOTH, NEITHER, NEITHER]


def test_during_a_rotation_the_libraries_accept_a_message_with_the_old_and_with_the_new_secret() -> None:
    rotating = (NEW, OLD)
    assert verified((OLD, rotating, BODY), (NEW, rotating, BODY), (OTHER, rotating, BODY)) == [BOTH, BOTH, NEITHER]
