"""Passwords and TLS on a Cluster and under Sentinels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.sessions.listing import Sessions
from tests.deployments import Certificate, redis_cluster, redis_sentinels
from tests.store.making import ask_about

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
PASSWORD = "a-password"


async def admits(url: str, tls: TlsFiles | None = None) -> bool:
    """Whether an admission by this URL is recorded, and can be read by people's way."""
    access = RedisAccess.by_url(url, tls or TlsFiles())
    router = access.router(timeout_s=2)
    await router.open()
    admissions = Admissions(router, SessionRules(60_000, 0))
    try:
        await admissions.ask(ask_about("alice"))
        return await Sessions(access.client).get("acme", "alice") is not None
    finally:
        await admissions.close()
        await router.close()
        await access.close()


@pytest.fixture
def sentinels_with_passwords() -> Iterator[str]:
    with redis_sentinels(password=PASSWORD) as sentinels:
        yield sentinels.url


@pytest.fixture
def cluster_with_tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its URL, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    files = Certificate(*(str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem")))
    authority.cert_pem.write_to_path(files.ca)
    issued.private_key_pem.write_to_path(files.key)
    issued.cert_chain_pems[0].write_to_path(files.cert)
    with redis_cluster(password=PASSWORD, certificate=files) as cluster:
        yield cluster.url, Path(files.ca)


async def test_sentinels_and_their_master_with_passwords(sentinels_with_passwords: str) -> None:
    assert await admits(sentinels_with_passwords)


async def test_a_cluster_with_a_password_over_tls(cluster_with_tls: tuple[str, Path]) -> None:
    url, ca = cluster_with_tls
    assert url.startswith("rediss+cluster://")
    assert await admits(url, TlsFiles(ca_file=ca))
