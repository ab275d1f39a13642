"""How the admissions' connection begins: user, password, database, name, TLS, and what is said where that fails."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.endpoint import Endpoint
from service.store.connection.failures import kind_of
from service.store.connection.pipeline import FAILURES_TO_OPEN
from service.store.connection.resp import Command
from service.store.connection.router import SingleNodeRouter
from service.store.connection.url import Address
from tests.deployments import Certificate, start_node
from tests.kit import redis_server
from tests.store.making import ask_about, pipeline_of
from tests.store.servers import PING, soon

# Logging in, on real servers.


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[str, Any]]:
    """A server with a password for the default user, and a user of its own for the service."""
    with (
        redis_server("--requirepass", "the-default's") as url,
        redis.Redis(unix_socket_path=url.removeprefix("unix://"), password="the-default's") as root,
    ):
        root.execute_command("ACL", "SETUSER", "svc", "reset", "on", ">a-secret", "~*", "&*", "+@all")
        root.execute_command("ACL", "SETUSER", "nameless", "reset", "on", ">a-secret", "~*", "&*", "+@all", "-client")
        yield url, root


async def asked(url: str, commands: Sequence[Command], tls: TlsFiles | None = None) -> list[Any]:
    connection = await Endpoint.of(Address.parse(url), tls or TlsFiles()).connect()
    try:
        return await connection.round_trip(commands, soon())
    finally:
        await connection.hang_up()


@pytest.mark.real_redis
async def test_a_user_a_database_and_a_name_of_the_url_are_used(guarded: tuple[str, Any]) -> None:
    url, _ = guarded
    [who, info] = await asked(
        f"{url}?username=svc&password=a-secret&db=3&client_name=rollcall", [("ACL", "WHOAMI"), ("CLIENT", "INFO")]
    )
    assert who == b"svc"
    assert b" db=3 " in info
    assert b" name=rollcall " in info
    assert (await asked(f"{url}?password=the-default's", [("ACL", "WHOAMI")])) == [b"default"]


REFUSED: dict[str, tuple[str, type[Exception], str]] = {
    "a wrong password": ("?username=svc&password=wrong", AuthenticationError, "invalid username-password pair"),
    "an unknown user": ("?username=x&password=a-secret&db=2", AuthenticationError, "invalid username-password pair"),
    "no such database": ("?username=svc&password=a-secret&db=99", ResponseError, "DB index is out of range"),
    "a name that may not be set": (
        "?username=nameless&password=a-secret&client_name=rollcall",
        NoPermissionError,
        "no permissions",
    ),
}


@pytest.mark.real_redis
@pytest.mark.parametrize("why", REFUSED)
async def test_a_login_that_is_refused_says_why(guarded: tuple[str, Any], why: str) -> None:
    url, _ = guarded
    query, raised, words = REFUSED[why]
    with pytest.raises(raised, match=words):
        await asked(url + query, [PING])


@pytest.mark.real_redis
async def test_a_server_that_asks_for_a_password_that_is_not_configured_opens_the_breaker_by_that_kind(
    guarded: tuple[str, Any],
) -> None:
    access = RedisAccess.by_url(guarded[0], TlsFiles())
    link = pipeline_of(access, timeout_s=1)
    admissions = Admissions(SingleNodeRouter(link), SessionRules(60_000, 0))
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(Exception, match="Service Unavailable"):
            await admissions.ask(ask_about("alice"))
    assert link.is_down
    assert link.failure == "NOAUTH"
    await link.close()
    await access.close()


async def test_a_server_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(RedisConnectionError, match=r"127\.0\.0\.1:1 cannot be connected.*Refused") as raised:
        await asked("redis://127.0.0.1:1", [PING])
    assert kind_of(raised.value) == "refused"
    with pytest.raises(RedisConnectionError, match=r"/nowhere\.sock cannot be connected to"):
        await asked("unix:///nowhere.sock", [PING])


def test_credentials_are_in_no_text_about_a_server() -> None:
    endpoint = Endpoint.of(Address.parse("redis://somebody:a-secret@10.0.0.1"), TlsFiles())
    assert "a-secret" not in repr(endpoint)
    assert "somebody" not in repr(endpoint)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, TlsFiles]]:
    """A server that speaks TLS alone and asks for a client's certificate: its port, and the files."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    paths = [folder / name for name in ("ca.pem", "cert.pem", "key.pem", "client.pem", "client-key.pem")]
    ca, cert, key, client_cert, client_key = paths
    authority.cert_pem.write_to_path(ca)
    for issued, certificate, private in (
        (authority.issue_cert("localhost"), cert, key),
        (authority.issue_cert("service@example.org"), client_cert, client_key),
    ):
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(private)
    files = Certificate(str(cert), str(key), str(ca))
    with ExitStack() as stack:
        node = start_node(stack, certificate=files)
        node.client.config_set("tls-auth-clients", "yes")
        yield node.port, TlsFiles(ca, client_cert, client_key)


@pytest.mark.real_redis
async def test_tls_uses_the_configured_authority_and_certificate(secured: tuple[int, TlsFiles]) -> None:
    port, files = secured
    assert await asked(f"rediss://localhost:{port}", [PING], files) == [b"PONG"]


@pytest.mark.real_redis
async def test_a_certificate_of_an_unknown_authority_or_for_another_name_is_refused(
    secured: tuple[int, TlsFiles],
) -> None:
    port, files = secured
    with pytest.raises(RedisConnectionError, match="certificate verify failed"):
        await asked(f"rediss://localhost:{port}", [PING], TlsFiles(None, files.cert_file, files.key_file))
    with pytest.raises(RedisConnectionError, match="certificate verify failed"):
        await asked(f"rediss://127.0.0.1:{port}", [PING], files)


@pytest.mark.real_redis
async def test_a_file_that_cannot_be_read_is_an_error_of_the_connection(
    secured: tuple[int, TlsFiles], tmp_path: Path
) -> None:
    with pytest.raises(RedisConnectionError, match="cannot be connected to"):
        await asked(f"rediss://127.0.0.1:{secured[0]}", [PING], TlsFiles(tmp_path / "missing.pem"))
