"""What `make run` says once the service listens: where to look, and what to try."""

from service.config.settings import Settings
from service.demo_tokens import NoSigningSecret, sign

USER = "alice"
DEMO_OPERATOR_TOKEN = "demo-operator-token"  # noqa: S105  # nosec B105  # the shipped one, good for loopback alone


def print_banner(settings: Settings) -> None:
    """Print the dashboard's address, a curl line that works when pasted, and three things to try."""
    host = settings.server.host
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
        headers = f"-H 'x-tenant-token: {tenant.token.get_secret_value()}' -H 'x-token: {token}'"
        print(f"  {USER} of {name}, with a fresh token that holds for an hour:\n")
        print(f"  curl -i {headers} {base}/auth/status\n")
        print("Next, three things to try:")
        print("  1. the same line with /auth/logout: the dashboard shows logged_out, the token stays valid")
        print("  2. the first line again: logged_in, previousStatus logged_out")
        print("  3. /auth/logout more than 30 times: 429 with Retry-After, and no status changes\n", flush=True)
        return
