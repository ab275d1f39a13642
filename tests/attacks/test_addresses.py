"""Addresses that somebody made up: whoever is over a limit per address stays over it, whatever is claimed."""

from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.attacks.conftest import Attack, Launch, Target, of
from tests.kit import Answer, sign

HEADERS = ("x-forwarded-for", "forwarded")
OURS, OURS_6 = "203.0.113.9", "2001:db8:1:2::1"
"""The entry that the proxy in front adds for the attacker, who wrote everything before it."""

CLAIMED = [
    *("198.51.100.1", "198.51.100.1, 198.51.100.2", "127.0.0.2", "0.0.0.0", "255.255.255.255", "localhost"),
    *("::1", "[::1]", "[::1]:80", "2001:db8::1", "[2001:db8::1]:443", "::ffff:198.51.100.1", "::198.51.100.1"),
    *("64:ff9b::198.51.100.1", "2002:c633:6401::1", "fe80::1%eth0", "fe80::1%25eth0", "::", "1::2::3"),
    *("198.51.100.1:1234", "198.51.100.1/32", "0xc6336401", "3325256705", "0306.063.0144.01", "198.51.100", "198.51"),
    *("198.051.100.001", "198.51.100.1.", " 198.51.100.1 ", "198.51.100.1\t", "\uff11.1.1.1", "\u0661.1.1.1"),
    *("", ",", ", ,", "unknown", "_hidden", "_" * 2000, "null", "for=198.51.100.1", '"198.51.100.1"', "<198.51.100.1>"),
    *("198.51.100.1;proto=https", "*", "{}", "198.51.100.1\udcff", "' OR 1=1--", "1" * 5000, "1.1.1.1, " * 600),
]  # fmt: skip
NAMES = (
    *("x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip"),
    *("fastly-client-ip", "x-cluster-client-ip", "x-original-forwarded-for", "x-forwarded", "x-remote-addr", "via"),
    *("x-originating-ip", "x-remote-ip", "x-host", "x-forwarded-host", "x-envoy-external-address", "remote-addr"),
)  # fmt: skip
ELEMENTS = [
    *("for=198.51.100.1", 'for="198.51.100.1"', 'for="198.51.100.1:80"', 'for="[2001:db8::1]"', "For=198.51.100.1"),
    *('for="[2001:db8::1]:80"', "for=[2001:db8::1]", "for=unknown", "for=_hidden", "for=_gazonk:80", "for=", 'for=""'),
    *("for=198.51.100.1;for=198.51.100.2", "by=198.51.100.1", "for=198.51.100.1;by=1.1.1.1;host=a;proto=https"),
    *('for="198.51.100.1', 'for=198.51.100.1"', 'host="a, for=198.51.100.1', 'host="a\\', "for = 198.51.100.1"),
    *('host="a;for=198.51.100.1";x=y', 'for="\\198.51.100.1"', "for=198.51.100.1,", ",for=198.51.100.1", "for", ";"),
    *("=198.51.100.1", "198.51.100.1", "for=::1", "for=198.51.100.1 for=198.51.100.2", "xfor=198.51.100.1"),
    *('for="' + '\\"' * 3000, "for=a;" * 900, 'for="' + " " * 5000, "a=b" + " " * 5000 + ";", "a" * 6000 + "="),
]  # fmt: skip


def once(name: str) -> dict[str, Any]:
    """One request an hour."""
    return {"status": [{"name": name, "per": "ip", "requests": 1, "window": 3600}]}


async def over(target: Target, *fields: tuple[str, str]) -> Answer:
    """The answer to mallory, who claims these fields."""
    return await target.ask(fields=[*of(sign("mallory")), *fields])


async def held(target: Target, attack: Attack, name: str, *fields: tuple[str, str]) -> None:
    """Mallory is over the limit, and stays so."""
    answer = await over(target, *fields)
    attack(name, answer)
    assert (answer.status, answer.code) == (429, "TOO_MANY_REQUESTS")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(launch: Launch) -> Target:
    """A service that trusts no proxy; mallory has used up what there is."""
    target = await launch(limits=once("alone"))
    assert [(await over(target)).status for _ in range(2)] == [200, 429]
    return target


@dataclass
class Behind:
    """A service behind a proxy that appends to a header what it knows of mallory, who has used that up."""

    target: Target
    header: str

    def node(self, address: str) -> str:
        """How the proxy writes an address."""
        if self.header == "x-forwarded-for":
            return address
        return f'for="[{address}]";proto=https' if ":" in address else f"for={address};proto=https"

    def appended(self, address: str, before: str = "") -> tuple[str, str]:
        """The field, once the proxy has appended what it knows."""
        return self.header, f"{before}{self.node(address)}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(launch: Launch) -> dict[str, Behind]:
    """Header → a service whose proxy appends to that one."""
    made = {}
    for header in HEADERS:
        server = {"trusted_proxies": ["127.0.0.0/8"], "client_address": header}
        one = made[header] = Behind(await launch(server=server, limits=once(header)), header)
        for address in (OURS, OURS_6):
            assert (await over(one.target, one.appended(address))).status == 200
        assert (await over(one.target)).status == 200, "the proxy's own address is another, and used up as well"
    return made


@pytest.mark.parametrize("claimed", [*CLAIMED, *ELEMENTS], ids=range(len(CLAIMED) + len(ELEMENTS)))
async def test_without_a_trusted_proxy_no_claim_is_believed(alone: Target, attack: Attack, claimed: str) -> None:
    await held(alone, attack, ascii(claimed), *((name, claimed) for name in HEADERS))


async def test_no_other_field_is_believed_either(alone: Target, attack: Attack) -> None:
    for name in NAMES:
        await held(alone, attack, f"by {name}", (name, "198.51.100.1"))
    await held(alone, attack, "by all of these", *((name, "198.51.100.1") for name in NAMES))
    await held(alone, attack, "by 200 fields", *(("x-forwarded-for", f"198.51.100.{number}") for number in range(200)))


BEFORE = [(HEADERS[0], claimed) for claimed in CLAIMED] + [(HEADERS[1], claimed) for claimed in ELEMENTS]


@pytest.mark.parametrize(("header", "claimed"), BEFORE, ids=range(len(BEFORE)))
async def test_behind_a_proxy_what_precedes_its_own_entry_is_ignored(
    behind: dict[str, Behind], attack: Attack, header: str, claimed: str
) -> None:
    one = behind[header]
    assert (await over(one.target, one.appended(OURS, before=f"{claimed}, "))).status == 429
    await held(one.target, attack, f"proxied {claimed!a}", (header, claimed), one.appended(OURS))


@pytest.mark.parametrize("header", HEADERS)
async def test_behind_a_proxy_no_other_field_is_believed(
    behind: dict[str, Behind], attack: Attack, header: str
) -> None:
    one = behind[header]
    for name in sorted({*NAMES} - {header}):
        claims = [(name, "198.51.100.1"), (name, "for=198.51.100.1")]
        await held(one.target, attack, f"proxied, by {name}", *claims, one.appended(OURS))


SPELT = [
    *("::ffff:203.0.113.9", "::FFFF:203.0.113.9", "::ffff:cb00:7109", "0:0:0:0:0:ffff:203.0.113.9"),
    *("64:ff9b::203.0.113.9", "64:ff9b::cb00:7109", "0064:FF9B:0:0:0:0:CB00:7109"),
]
PORTS = ["1", "17085", "65535"]
NEXT_DOOR = [
    "2001:db8:1:2::2",
    "2001:db8:1:2:ffff:ffff:ffff:ffff",
    "2001:0DB8:0001:0002::3",
    "2001:db8:1:2:0:5efe:7f00:1",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("address", [*SPELT, *NEXT_DOOR])
async def test_another_spelling_or_an_address_next_door_is_the_same_client(
    behind: dict[str, Behind], attack: Attack, header: str, address: str
) -> None:
    one = behind[header]
    await held(one.target, attack, f"proxied, also {address}", one.appended(address))


@pytest.mark.parametrize("address", [OURS, OURS_6])
@pytest.mark.parametrize("port", PORTS)
async def test_another_port_is_the_same_client(
    behind: dict[str, Behind], attack: Attack, address: str, port: str
) -> None:
    node = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    await held(behind[HEADERS[0]].target, attack, f"proxied, from {node}", (HEADERS[0], node))
    await held(behind[HEADERS[1]].target, attack, f"proxied, for {node}", (HEADERS[1], f'for="{node}"'))


@pytest.mark.parametrize("header", HEADERS)
async def test_further_proxies_of_ours_are_seen_through(behind: dict[str, Behind], attack: Attack, header: str) -> None:
    one = behind[header]
    fields = [one.appended(address) for address in ("198.51.100.1", OURS, "127.0.0.7", "127.0.0.8")]
    await held(one.target, attack, "proxied three times", *fields)


@pytest.mark.parametrize("header", HEADERS)
async def test_whoever_has_quota_left_is_admitted_by_what_the_proxy_says(
    behind: dict[str, Behind], header: str
) -> None:
    """Otherwise the tests above would prove nothing."""
    one = behind[header]
    for address in ("198.51.100.1", "198.51.100.2"):
        assert (await over(one.target, one.appended(address))).status == 200
