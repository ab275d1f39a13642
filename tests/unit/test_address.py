"""What redis.url says."""

import pytest

from service.store.connection.url import Address


@pytest.mark.parametrize(
    ("url", "kind", "tls", "nodes", "name", "options", "sentinel_options"),
    [
        ("redis+sentinel://a:1,b/main", "sentinel", False, (("a", 1), ("b", 26379)), "main", {}, {}),
        (
            "rediss+sentinel://u:p%40@a:1/main?sentinel_username=s&sentinel_password=t",
            *("sentinel", True, (("a", 1),), "main"),
            *({"username": "u", "password": "p@"}, {"username": "s", "password": "t"}),
        ),
        ("redis+cluster://[::1]:7000,b", "cluster", False, (("::1", 7000), ("b", 6379)), "", {}, {}),
        ("rediss+cluster://:p@a", "cluster", True, (("a", 6379),), "", {"password": "p"}, {}),
    ],
)
def test_sentinels_and_clusters_are_read(
    url: str,
    kind: str,
    tls: bool,
    nodes: tuple[tuple[str, int], ...],
    name: str,
    options: dict[str, str],
    sentinel_options: dict[str, str],
) -> None:
    assert Address.parse(url) == Address(kind, tls, nodes, name, options, sentinel_options)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/",
        "redis+sentinel://a:1/main/2",
        "redis+sentinel:///main",
        "redis+sentinel://a:1,/main",
        "redis+sentinel://a:99999/main",
        "redis+sentinel://a:1/main?db=2",
        "redis+cluster://a:1?sentinel_password=x",
        "redis+cluster://a b",
        "redis+cluster://",
        "redis+proxy://a",
    ],
)
def test_half_an_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"host, port or an option|must be embedded"):
        Address.parse(url)


def test_credentials_are_not_shown() -> None:
    shown = repr(Address.parse("redis+sentinel://u:secret@a:1/main?sentinel_password=hidden"))
    assert "secret" not in shown
    assert "hidden" not in shown
