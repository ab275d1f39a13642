#!/usr/bin/env bash
# PyPI's svix 2.9.1 returns None from Webhook.verify, where npm's svix 1.99.1 and both standardwebhooks return the
# parsed message. `message = webhook.verify(body, headers)` verifies well and then has nothing.
# Expected: the parsed message, as in the library that it wraps. Svix's own page on verifying assigns what it returns
# in its examples for Django and Flask.
source "$(dirname "$0")/common.bash"
python_packages svix==2.9.1 standardwebhooks==1.1.0
npm_packages svix@1.99.1 standardwebhooks@1.1.1
cat >run.py <<'PY'
from datetime import UTC, datetime

import standardwebhooks
import svix

body, now = '{"type": "transition"}', datetime.now(UTC)
for name, library in (("svix", svix), ("standardwebhooks", standardwebhooks)):
    webhook = library.Webhook("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3")
    headers = {"webhook-id": "1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": webhook.sign("1", now, body)}
    print("PyPI", name, webhook.verify(body, headers))
PY
cat >run.js <<'JS'
import { Webhook as Svix } from "svix";
import { Webhook as Standard } from "standardwebhooks";

const body = '{"type": "transition"}', now = new Date();
for (const [name, Library] of [["svix", Svix], ["standardwebhooks", Standard]]) {
  const webhook = new Library("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3");
  const headers = { "webhook-id": "1", "webhook-timestamp": String(Math.floor(now / 1000)), "webhook-signature": webhook.sign("1", now, body) };
  console.log("npm", name, JSON.stringify(webhook.verify(body, headers)));
}
JS
{ $python run.py; node run.js; } | expect "PyPI svix None
PyPI standardwebhooks {'type': 'transition'}
npm svix {\"type\":\"transition\"}
npm standardwebhooks {\"type\":\"transition\"}"
