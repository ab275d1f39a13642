"""The text that `make run` prints once the service listens: addresses, and commands to try."""

from service.config.settings import Settings
from service.demo_tokens import NoSigningSecret, sign

USER = "alice"
DEMO_OPERATOR_TOKEN = "demo-operator-token"  # noqa: S105  # nosec B105  # the shipped one, good for loopback alone


def print_banner(settings: Settings) -> None:
    """Print the dashboard's address, a curl line that works when pasted, and what to try next."""
    host = settings.server.hosts[0]
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"
    print(f"\nRollcall listens on {base}\n")
    print(f"  dashboard   {base}/dashboard")
    known = any(one.token and one.token.get_secret_value() == DEMO_OPERATOR_TOKEN for one in settings.admin.tokens)
    print(f"  log in with {DEMO_OPERATOR_TOKEN if known else 'one of the tokens under admin.tokens'}\n")
    for name, tenant in settings.tenants.items():
        try:
            token = sign(settings, name, USER, 3600)
        except NoSigningSecret:
            continue
        if tenant.token is None:
            continue
        curl = f"curl -i -H 'x-tenant-token: {tenant.token.get_secret_value()}' -H 'x-token: {token}'"
        print(f"In another terminal, as {USER} of {name} with a fresh token that is valid for an hour:\n")
        print(f"  {curl} {base}/auth/status\n")
        print("Then try:")
        print("  1. log out: the same line with -X POST and /auth/logout. The token stays valid")
        print("  2. the first line with -H 'x-passive: true': logged_out, read without changing it")
        print("  3. the first line again: its next use with a valid token logs the user in")
        print("  4. /auth/logout by POST more than 30 times: 429 with Retry-After\n")
        print("Ctrl-C stops the service. Stop it before you start an example: they use the same port.\n", flush=True)
        return
