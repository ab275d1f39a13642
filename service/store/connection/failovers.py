"""The state of a failover, from what the Sentinels announce."""

from collections.abc import Sequence

LONGEST_S = 15.0
"""Seconds after which an announced failover counts as over, and the primary that most Sentinels name is used."""
CHANNELS = ("+try-failover", "+failover-state-*", "+promoted-slave", "+switch-master", "-failover-abort-*")
"""The patterns of the subscription."""
_AFTERWARDS = ("+failover-state-reconf-slaves", "+failover-state-update-config")
"""States of a failover whose promotion is done."""

PrimaryAddress = tuple[str, int]
"""Host and port."""


class Failovers:
    """Tracks whether a failover of one primary is under way. The clock is passed in.

    Args:
        name: what the Sentinels call the primary.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._announced_by: set[str] = set()
        self._until = 0.0
        self._old: PrimaryAddress | None = None
        self._replaced: dict[PrimaryAddress, float] = {}

    def is_under_way(self, now_s: float) -> bool:
        """Return whether no primary may be used."""
        return bool(self._announced_by) and now_s < self._until

    def replaced(self, now_s: float) -> set[PrimaryAddress]:
        """Return the primaries that were just replaced. Some Sentinels name them for a moment longer."""
        return {address for address, until in self._replaced.items() if now_s < until}

    def settle(self, named: PrimaryAddress, now_s: float) -> None:
        """End it if most Sentinels already name another primary: the announcement of that was missed."""
        if self._old is not None and named != self._old:
            self._over(self._old, named, now_s)

    def _over(self, old: PrimaryAddress, new: PrimaryAddress, now_s: float) -> None:
        self._announced_by.clear()
        self._replaced.pop(new, None)
        self._replaced[old] = now_s + LONGEST_S

    def hear(self, sentinel: str, channel: str, text: str, now_s: float) -> None:
        """Take one announcement.

        Args:
            sentinel: identifies who announces it.
            channel: the event's name.
            text: the event's text (Redis documentation, "Sentinel Pub/Sub messages").
            now_s: seconds of a clock that does not go back.
        """
        words = text.split()
        try:
            name, old, new = _read(channel, words)
        except (ValueError, IndexError):
            return  # the form of another version: the regular check notices the change
        if name != self.name:
            return
        if new is not None:  # promoted, or switched to
            self._over(old, new, now_s)
        elif channel.startswith("-failover-abort-"):
            self._announced_by.discard(sentinel)
        elif channel not in _AFTERWARDS:
            if not self.is_under_way(now_s):
                self._announced_by.clear()  # a Sentinel that went away during it never announces its end
                self._until, self._old = now_s + LONGEST_S, old
            elif channel == "+try-failover":
                self._until, self._old = now_s + LONGEST_S, old
            self._announced_by.add(sentinel)


def _read(channel: str, words: Sequence[str]) -> tuple[str, PrimaryAddress, PrimaryAddress | None]:
    """Return the primary's name and address, and the address of the one that takes its place where there is one."""
    if channel == "+switch-master":
        return words[0], (words[1], int(words[2])), (words[3], int(words[4]))
    if words[0] == "master":
        return words[1], (words[2], int(words[3])), None
    at = words.index("@")
    new = (words[2], int(words[3])) if channel == "+promoted-slave" else None
    return words[at + 1], (words[at + 2], int(words[at + 3])), new
