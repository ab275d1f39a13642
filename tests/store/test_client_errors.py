"""Whatever redis-py raises, a call of the store fails with StoreUnavailable: a request is 503, never 500."""

import asyncio
import errno
import importlib
import pkgutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

import service.store
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.core.traffic_statistics import Refused, TrafficSample
from service.core.webhooks import Pause, SetAside, Skip, Waiting
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.admissions.window_retention import Retention
from service.store.connection.calls import client_errors, redis_call
from service.store.connection.client import RedisAccess
from service.store.events.sign_outs import SignOuts
from service.store.events.stream import Events
from service.store.events.subscriber import EventSubscriber
from service.store.events.traffic_statistics import TrafficStatistics
from service.store.events.webhook_state import RedisWebhookStates
from service.store.leases import Leases
from service.store.libraries import Libraries
from service.store.sessions.inspection import Inspections
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from service.store.sessions.repair import Repair
from tests.store.making import ask_about, sweeper

pytestmark = pytest.mark.real_redis
BY = Author("root")
LIMIT = Limit("some", Per.IP, 3, 60)
WAITING = Waiting("m1", {}, 1, "refused", 1, 2)
ASIDE = SetAside("m1", {}, "refused", "gave_up", "", "", 1)
ELSEWHERE = "3999 127.0.0.1:1"


def _made(kind: type[Exception]) -> Exception:
    return kind(ELSEWHERE) if issubclass(kind, exceptions.AskError) else kind("what redis-py says")


OF_REDIS = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
]
OF_SYSTEM = [
    *(ConnectionResetError(), BrokenPipeError(), ConnectionRefusedError(), TimeoutError()),
    OSError(errno.EMFILE, "Too many open files"),
]
ACCIDENTS = [
    AttributeError("'NoneType' object has no attribute 'writelines'"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True reading=False>; the handler is closed"),
    RuntimeError("read() called while another coroutine is already waiting for incoming data"),
    asyncio.InvalidStateError("invalid state"),
    asyncio.IncompleteReadError(b"", 1),
    KeyError(3999),
    IndexError("Cannot choose from an empty sequence"),
    TypeError("'NoneType' object is not iterable"),
    ValueError("not enough values to unpack"),
]
"""A connection that is closed while a command uses it, and a Cluster's map that is replaced meanwhile, raise these."""
ERRORS: dict[str, Exception] = {
    **{kind.__name__: _made(kind) for kind in OF_REDIS},
    **{f"system: {one!r}": one for one in OF_SYSTEM},
    **{f"accident: {one!r}": one for one in ACCIDENTS},
}

Call = Callable[[Any], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "Events.history": lambda client: Events(client).history("acme", "alice", most=5),
    "Events.latest": lambda client: Events(client).latest("acme", most=5),
    "EventSubscriber._after": lambda client: EventSubscriber(client)._after("acme", "1-0"),
    "EventSubscriber._may_have_lost": lambda client: EventSubscriber(client)._may_have_lost("acme", "1-0"),
    "EventSubscriber._newest": lambda client: EventSubscriber(client)._newest("acme"),
    "Inspections.inspect": lambda client: Inspections(client).inspect("acme", ["alice"]),
    "Leases.hold": lambda client: Leases(client).hold("rc:lease"),
    "Leases.release": lambda client: Leases(client).release("rc:lease"),
    "Libraries.keep": lambda client: Libraries(client).keep(),
    "RedisLeftovers.is_kept": lambda client: RedisLeftovers(client).is_kept("acme"),
    "RedisLeftovers.note_all": lambda client: RedisLeftovers(client).note_all(),
    "RedisLeftovers.note_configured": lambda client: RedisLeftovers(client).note_configured(["acme"]),
    "RedisLeftovers.of": lambda client: RedisLeftovers(client).of(["acme"]),
    "RedisLeftovers.remove": lambda client: RedisLeftovers(client).remove("acme"),
    "RedisOperatorActions.act": lambda client: RedisOperatorActions(client).act("acme", ["a"], Cause.SUSPEND, BY),
    "RedisOperatorActions.forget": lambda client: RedisOperatorActions(client).forget("acme", "a", BY),
    "RedisOperatorActions.limits_set": lambda client: RedisOperatorActions(client).limits_set(["acme"]),
    "RedisOperatorActions.peek": lambda client: RedisOperatorActions(client).peek("acme", [(LIMIT, "10.0.0.1")]),
    "RedisOperatorActions.reset_limit": lambda client: RedisOperatorActions(client).reset_limit("acme", "l", "a", BY),
    "RedisOperatorActions.restore": lambda client: RedisOperatorActions(client).restore("acme", None, BY),
    "RedisOperatorActions.restrict": lambda client: RedisOperatorActions(client).restrict("acme", "a", "pay", BY),
    "RedisOperatorActions.revoke": lambda client: RedisOperatorActions(client).revoke("acme", "a", BY),
    "RedisOperatorActions.rules": lambda client: RedisOperatorActions(client).rules("acme"),
    "RedisOperatorActions.set_limit": lambda client: RedisOperatorActions(client).set_limit("acme", LIMIT, 1, 9, BY),
    "RedisOperatorActions.unrestrict": lambda client: RedisOperatorActions(client).unrestrict("acme", "a", "pay", BY),
    "RedisOperatorActions.unset_limit": lambda client: RedisOperatorActions(client).unset_limit("acme", "l", None, BY),
    "RedisWebhookStates.delivered": lambda client: RedisWebhookStates(client).delivered("acme", "h", "1-0"),
    "RedisWebhookStates.orders": lambda client: RedisWebhookStates(client).orders("acme", "h"),
    "RedisWebhookStates.pause": lambda client: RedisWebhookStates(client).pause("acme", "h", Pause("root", "", 1)),
    "RedisWebhookStates.resume": lambda client: RedisWebhookStates(client).resume("acme", "h"),
    "RedisWebhookStates.set_aside": lambda client: RedisWebhookStates(client).set_aside("acme", "h", ASIDE, None, None),
    "RedisWebhookStates.skip": lambda client: RedisWebhookStates(client).skip("acme", "h", Skip("m1", "root", "")),
    "RedisWebhookStates.state": lambda client: RedisWebhookStates(client).state("acme", "h"),
    "RedisWebhookStates.take_up": lambda client: RedisWebhookStates(client).take_up("acme", "h"),
    "RedisWebhookStates.wait": lambda client: RedisWebhookStates(client).wait("acme", "h", WAITING),
    "Repair.adopt": lambda client: Repair(client).adopt(),
    "Repair.run": lambda client: Repair(client).run(),
    "Retention._catch_up": lambda client: Retention(client)._catch_up({("acme", "l"): 60}),
    "Retention.extend": lambda client: Retention(client).extend({("acme", "l"): 60}),
    "Sessions.counts": lambda client: Sessions(client).counts(["acme"]),
    "Sessions.get": lambda client: Sessions(client).get("acme", "alice"),
    "Sessions.page": lambda client: Sessions(client).page("acme"),
    "Sessions.walk": lambda client: Sessions(client).walk("acme", Status.LOGGED_IN, 0, size=5),
    "Sessions.walk_page": lambda client: Sessions(client).walk_page("acme", prefix="a"),
    "SignOuts._report": lambda client: SignOuts(client).add("login"),
    "Sweeper._adopt_once": lambda client: sweeper(access_of(client))._adopt_once(),
    "TrafficStatistics.activity": lambda client: TrafficStatistics(client).activity("acme"),
    "TrafficStatistics.pour": lambda client: TrafficStatistics(client).pour(
        "acme", TrafficSample(refusals=Counter([Refused("X", "status", "10.0.0.1")]))
    ),
}  # fmt: skip
BESIDE: dict[str, Call] = {
    "the sweep": lambda client: sweeper(access_of(client)).sweep(),
    "the lease of the sweep": lambda client: sweeper(access_of(client)).hold_lease(),
}


def access_of(client: Any) -> RedisAccess:
    return RedisAccess(client, None)


def wrapped() -> set[str]:
    """Every method of the store that `redis_call` decorates."""
    decorated, found = redis_call(asyncio.sleep).__code__, set()
    for module in pkgutil.walk_packages(service.store.__path__, "service.store."):
        for of in vars(importlib.import_module(module.name)).values():
            if isinstance(of, type) and of.__module__ == module.name:
                methods = [name for name, one in vars(of).items() if getattr(one, "__code__", None) is decorated]
                found |= {f"{of.__name__}.{name}" for name in methods}
    return found


def test_the_table_has_every_call_of_the_store() -> None:
    assert CALLS.keys() == wrapped()


async def ended(call: Awaitable[Any]) -> str:
    """How it ends."""
    try:
        return f"returns {await call!r}"
    except Exception as error:
        return type(error).__name__


@contextmanager
def failing(step: str, error: Exception) -> Iterator[None]:
    """Has every connection of redis-py fail with an error, while it sends a command or reads an answer."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, step, fail)
        yield


STEPS = pytest.mark.parametrize("step", ["send_packed_command", "read_response"])


@STEPS
@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_every_call_fails_with_store_unavailable_whatever_redis_py_raises(access: RedisAccess, step: str) -> None:
    await access.client.ping()
    ends: dict[tuple[str, str], str] = {}
    for named, error in ERRORS.items():
        with failing(step, error):
            ends |= {(named, name): await ended(call(access.client)) for name, call in (CALLS | BESIDE).items()}
    assert {at: end for at, end in ends.items() if end != "StoreUnavailable"} == {}


ON_A_CLUSTER = ("RedisOperatorActions.act", "Sessions.get", "Sessions.counts")


@STEPS
@pytest.mark.parametrize("access", ["cluster"], indirect=True)
async def test_every_call_fails_alike_on_a_cluster(access: RedisAccess, step: str) -> None:
    """A function, a command, and a pipeline over several slots."""
    ends: dict[tuple[str, str], str] = {}
    for named, error in ERRORS.items():
        await access.client.initialize()
        with failing(step, error):
            ends |= {(named, name): await ended(CALLS[name](access.client)) for name in ON_A_CLUSTER}
    assert {at: end for at, end in ends.items() if end != "StoreUnavailable"} == {}


class Failing:
    """A connection for admissions that fails with an error, or is answered with it."""

    is_broken = False

    def __init__(self, error: Exception, *, answered: bool) -> None:
        self.error, self.answered = error, answered

    async def round_trip(self, commands: Any, until: float) -> list[Any]:
        if self.answered:
            return [self.error] * len(commands)
        raise self.error

    def abort(self) -> None:
        pass

    async def hang_up(self) -> None:
        pass


@pytest.mark.parametrize("answered", [False, True], ids=["raised", "answered"])
async def test_an_admission_and_readiness_fail_as_without_redis_whatever_the_connection_raises(answered: bool) -> None:
    ends: dict[str, object] = {}
    for named, error in ERRORS.items():
        connection = Failing(error, answered=answered)

        async def connect(connection: Any = connection) -> Any:
            return connection

        router = RedisAccess(None, connect).router(timeout_s=5)
        await router.open()
        admissions = Admissions(router, SessionRules(60_000, 0))
        ends[named] = {await ended(admissions.ask(ask_about("alice"))) for _ in range(4)}, await router.not_writable()
        await admissions.close()
        await router.close()
    assert {at: end for at, end in ends.items() if end != ({"StoreUnavailable"}, None)} == {}


async def test_a_mistake_of_the_stores_own_is_no_outage() -> None:
    nothing: dict[str, int] = {}

    @redis_call
    async def mistaken() -> int:
        return nothing["nothing"]

    with pytest.raises(KeyError):
        await mistaken()
    with pytest.raises(KeyError), client_errors():
        nothing["nothing"]


@pytest.mark.parametrize("access", ["cluster"], indirect=True)
async def test_a_command_whose_connection_is_closed_at_any_moment_has_its_answer_or_is_an_outage(
    access: RedisAccess,
) -> None:
    """When a node fails one command, redis-py closes its idle connections, and hands them out while it does so. A
    command that gets one fails with AttributeError.
    """
    await access.client.initialize()
    node = access.client.get_node_from_key("rc:{acme}:u:alice")
    sessions, outcomes = Sessions(access.client), Counter[str]()
    for steps in range(12):
        await asyncio.gather(*(sessions.get("acme", "alice") for _ in range(5)))
        closing = asyncio.create_task(node.disconnect_free_connections())
        for _ in range(steps):
            await asyncio.sleep(0)
        # As a call of a function is sent: to the node that owns the key.
        asked = [RedisOperatorActions(access.client).rules("acme") for _ in range(5)]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            outcomes[getattr(answer, "kind", type(answer).__name__)] += 1
        await closing
    assert outcomes["Rules"]
    assert outcomes.keys() <= {"Rules", "connection"}
