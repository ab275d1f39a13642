"""Protected routes: the rule that matches a request, and the terms that follow from it.

The rules are compiled into a tree by segment, so that a thousand cost what ten cost. The first rule of the list
that matches holds, as if they were tried one after the other.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from service.core.admission import Terms
from service.core.limits import Limit
from service.core.routing.paths import walk

REMEMBERED, MOST_REMEMBERED = 8192, 512
"""How many requests the cache has, and how many characters the path of one may have."""
_NEVER = 1 << 30
"""A number after every rule of a list."""


@dataclass(frozen=True, slots=True)
class Route:
    """One rule."""

    pattern: tuple[str, ...]
    """`*` matches one segment; at the end it matches everything that follows, nothing included."""
    methods: frozenset[str] = frozenset()
    """None: all methods. GET includes HEAD, as in servers."""
    capability: str | None = None
    limits: tuple[Limit, ...] = ()
    open: bool = False
    """The rule needs no credentials."""


@dataclass(slots=True, eq=False)  # compared and hashed by identity
class _Node:
    """A node of the tree. A rule's number is its place in the list; by method, None for all methods."""

    subscription: dict[str, "_Node"] = field(default_factory=dict)
    ending: dict[str | None, int] = field(default_factory=dict)
    below: dict[str | None, int] = field(default_factory=dict)


_State = tuple[tuple[_Node, ...], int]
"""The nodes that the names so far lead to, and the first rule that matches whatever follows."""


class RouteTable:
    """An ordered list of rules, compiled."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        for number, route in enumerate(self.routes):
            self._add(number, route)

    def _add(self, number: int, route: Route) -> None:
        node, open_ended = self._root, route.pattern[-1:] == ("*",)
        for name in route.pattern[:-1] if open_ended else route.pattern:
            node = node.subscription.setdefault(name, _Node())
        methods: set[str | None] = set(route.methods) or {None}
        if "GET" in methods:
            methods.add("HEAD")
        for method in methods:
            (node.below if open_ended else node.ending).setdefault(method, number)

    def find(self, method: str, target: str) -> set[int | None]:
        """Return the number of the first rule that matches, for each reading of the path; None: none does.

        Raises:
            UnreadableRequest: servers do not agree on what the target means.
        """

        def step(state: _State, name: str) -> _State:
            nodes, best = state
            further = []
            for node in nodes:
                if node.below:
                    best = _first(node.below, method, best)
                subscription = node.subscription
                if name in subscription:
                    further.append(subscription[name])
                if "*" in subscription and name != "*":
                    further.append(subscription["*"])
            return tuple(further), best

        start: _State = ((self._root,), _NEVER)
        found: set[int | None] = set()
        for nodes, best in walk(target, start, step):
            for node in nodes:
                best = _first(node.below, method, _first(node.ending, method, best))
            found.add(None if best == _NEVER else best)
        return found


def _first(numbers: dict[str | None, int], method: str, best: int) -> int:
    return min(best, numbers.get(method, best), numbers.get(None, best)) if numbers else best


class Protected:
    """The routes that hold for a tenant (or for a request that names none), and their terms.

    Args:
        table: the rules.
        terms: of the operation itself, which every route's come on top of.
        restricted: the capabilities that the configuration restricts the tenant from.
    """

    def __init__(self, table: RouteTable, terms: Terms, restricted: Collection[str]) -> None:
        self._table = table
        self._terms = terms
        self._restricted = restricted
        self._made: dict[int | None, Terms] = {None: replace(terms, forbidden=True)}

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All limits that its rules name."""
        return tuple(limit for route in self._table.routes for limit in route.limits)

    @property
    def capabilities(self) -> frozenset[str]:
        """All capabilities that its rules name."""
        return frozenset(route.capability for route in self._table.routes if route.capability is not None)

    def terms(self, method: str, target: str) -> Terms:
        """Return the terms for a request: those of its rule, and of the operation.

        Raises:
            UnreadableRequest: servers do not agree on what the target means.
        """
        path = target.partition("?")[0]
        return self._known(method, path) if len(path) <= MOST_REMEMBERED else self._find(method, path)

    @staticmethod
    def forget() -> None:
        """Clear the cache, which keeps rules alive that a reload has replaced."""
        Protected._known.cache_clear()

    @lru_cache(maxsize=REMEMBERED)  # noqa: B019  # for all tenants together, and `forget`
    def _known(self, method: str, path: str) -> Terms:
        return self._find(method, path)

    def _find(self, method: str, path: str) -> Terms:
        numbers = self._table.find(method, path)
        if None in numbers:
            return self._made[None]
        rules = sorted(number for number in numbers if number is not None)
        if len(rules) > 1:
            return self._make(rules)  # not cached: clients could request any combination of rules
        made = self._made.get(rules[0])
        if made is None:
            made = self._made[rules[0]] = self._make(rules)
        return made

    def _make(self, numbers: Iterable[int]) -> Terms:
        """Return terms with everything that these rules need."""
        routes = [self._table.routes[number] for number in numbers]
        asked = (*self._terms.capabilities, *(route.capability for route in routes))
        limits = (*self._terms.limits, *(limit for route in routes for limit in route.limits))
        return with_capabilities(
            replace(
                self._terms,
                limits=tuple({limit.name: limit for limit in limits}.values()),
                open=all(route.open for route in routes),
            ),
            [capability for capability in asked if capability is not None],
            self._restricted,
        )


def with_capabilities(terms: Terms, capabilities: Iterable[str], restricted: Collection[str]) -> Terms:
    """Return the same terms with these capabilities; `restricted` may name some of them."""
    needed = tuple(dict.fromkeys(capabilities))
    return replace(terms, capabilities=needed, restricted=next((one for one in needed if one in restricted), None))
