"""The sockets that `server.host` opens."""

import errno
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.config.settings import Server
from service.process.listeners import CannotListen, listeners_of
from tests.kit import free_port, needs


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def opened(hosts: Any, port: int) -> list[tuple[str, bool]]:
    """The addresses that are listened on, and whether each takes IPv6 alone."""
    with listeners_of(Server(host=hosts, port=port)) as found:
        six = socket.AF_INET6
        return [
            (
                one.getsockname()[0],
                one.family is six and bool(one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)),
            )
            for one in found.sockets
        ]


def reached(hosts: Any, addresses: Sequence[str]) -> list[bool]:
    port = free_port()
    with listeners_of(Server(host=hosts, port=port)):
        answers = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as client:
                answers.append(client.connect_ex((address, port)) == 0)
        return answers


def test_each_address_of_a_list_has_a_socket() -> None:
    assert opened(["127.0.0.1", "127.0.0.2", "127.0.0.1"], free_port()) == [("127.0.0.1", False), ("127.0.0.2", False)]


@pytest.mark.parametrize(
    "hosts", ["::", ["::"], ["::", "127.0.0.1"], ["::1", "::"], ["::", "0.0.0.0"], ["0.0.0.0", "::", "127.0.0.1"]]
)
def test_the_unspecified_ipv6_address_means_both_families(hosts: Any) -> None:
    needs("IPv6 on loopback", found=has_ipv6())
    assert reached(hosts, ["127.0.0.1", "::1"]) == [True, True]


def test_an_ipv4_wildcard_includes_the_addresses_beside_it() -> None:
    assert opened(["127.0.0.1", "0.0.0.0"], free_port()) == [("0.0.0.0", False)]


@pytest.fixture
def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    really = socket.create_server

    def create(address: Any, *, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return really(address, family=family, **{**options, "dualstack_ipv6": False})

    monkeypatch.setattr(socket, "create_server", create)


@pytest.mark.usefixtures("without_ipv6")
def test_on_a_machine_without_ipv6_both_families_are_the_one_that_is_there() -> None:
    with capture_logs() as logs:
        assert opened("::", free_port()) == [("0.0.0.0", False)]
    assert [line["event"] for line in logs] == ["this machine has no IPv6: listening on IPv4 alone"]


@pytest.mark.usefixtures("without_ipv6")
def test_a_name_that_also_has_an_address_of_a_family_that_is_not_here_is_served_on_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET6, 1, 6, "", ("::1", port, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert opened("localhost", free_port()) == [("127.0.0.1", False)]
    with pytest.raises(CannotListen, match="cannot listen on ::1:"), listeners_of(Server(host="::1")):
        pass


REFUSED = {
    "in use": ({}, "Address already in use; another program"),
    "another machine's": ({"host": "192.0.2.1"}, "see server.host and server.port"),
    "a name that nobody has": ({"host": "nowhere.invalid"}, "see server.host and server.port"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_address_that_cannot_be_bound_is_one_sentence(name: str) -> None:
    changes, words = REFUSED[name]
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = Server(**{"port": other.getsockname()[1], **changes})
        with pytest.raises(CannotListen) as refused, listeners_of(server):
            pass
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("number", "words"), [(errno.EMFILE, "LimitNOFILE="), (errno.EACCES, "CAP_NET_BIND_SERVICE")])
def test_what_the_system_refuses_says_what_to_change(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(*_: Any, **__: Any) -> socket.socket:
        raise OSError(number, "no")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(CannotListen, match=words), listeners_of(Server()):
        pass


def test_nothing_stays_open_where_the_second_address_cannot_be_bound() -> None:
    port = free_port()
    with pytest.raises(CannotListen), listeners_of(Server(host=["127.0.0.1", "192.0.2.1"], port=port)):
        pass
    socket.create_server(("127.0.0.1", port)).close()
