"""Readiness: the blockers and warnings that `/readyz` reports beside Redis's own answer."""

from collections.abc import Callable, Iterable

Source = Callable[[], Iterable[str]]
"""Returns sentences for an operator, or none if nothing is wrong. Does no I/O."""


class Readiness:
    """Collects sentences from its sources, each time that it is asked."""

    def __init__(self) -> None:
        self._blockers: list[Source] = []
        self._warnings: list[Source] = []

    def add_blocker(self, source: Source) -> None:
        """Answer 503 while `source` returns a sentence (a missing right, a server that is too old)."""
        self._blockers.append(source)

    def add_warning(self, source: Source) -> None:
        """Show the sentences of `source` in `data.warnings`; they never make the service unready."""
        self._warnings.append(source)

    def blockers(self) -> list[str]:
        """Return why the service is not ready; empty where nothing prevents it."""
        return [sentence for source in self._blockers for sentence in source()]

    def warnings(self) -> list[str]:
        """Return what an operator should know."""
        return [sentence for source in self._warnings for sentence in source()]
