"""The forecast whether an admission changes a record or reads a user's rules.

Only then does it take the keys of the tenant's indexes and of the users' rules, and for a request that is alone in its
round trip they would be two thirds of the keys. A forecast that fails costs a second round trip, and nothing else:
`lua/admit.lua` does nothing for a question that takes keys which were not sent, and says so.
"""

from collections.abc import Callable

from service.core.admission import Question
from service.core.sessions import MOST_SESSIONS, Cause, Session, Status

RULED_S = 60.0
"""Seconds for which the rules of a tenant's users are sent after a question needed them."""
_DENIED = (Status.SUSPENDED, Status.TERMINATED)


class RecordForecast:
    """Remembers the records of the users who asked last.

    Args:
        now_ms: Redis's clock as far as the service knows it, in milliseconds. Where the clocks differ, the forecast
            fails once per user and `seen_every`.
        clock_s: seconds of a clock that does not go back.
    """

    def __init__(self, now_ms: Callable[[], float], clock_s: Callable[[], float]) -> None:
        self._now_ms = now_ms
        self._clock_s = clock_s
        self._sessions: dict[tuple[str, str], Session] = {}
        self._ruled_until_s: dict[str | None, float] = {}

    def changes_record(self, question: Question, seen_every_ms: int) -> bool:
        """Return whether the admission of `question` will probably change the user's record."""
        user, cause = question.user, question.terms.cause
        if user is None or (question.passive and cause is Cause.REQUEST):
            return False
        session = self._sessions.get((user.tenant, user.user))
        if session is None or cause is not Cause.REQUEST:
            return True
        if session.status in _DENIED:
            return False
        if session.status is not Status.LOGGED_IN or user.expires_ms > (session.expires_ms or 0):
            return True
        if user.issued_s is None and not session.undated:
            return True
        return not 0 <= self._now_ms() - (session.seen_ms or 0) < seen_every_ms

    def learn(self, question: Question, session: Session) -> None:
        """Remember the record after an admission."""
        if question.user is None:
            return
        if len(self._sessions) >= MOST_SESSIONS:
            self._sessions.clear()
        self._sessions[question.user.tenant, question.user.user] = session

    def reads_rules(self, tenant: str | None) -> bool:
        """Return whether admissions of this tenant will probably read the rules of its users."""
        return bool(self._ruled_until_s) and self._ruled_until_s.get(tenant, 0.0) > self._clock_s()

    def learn_ruled(self, tenant: str | None) -> None:
        """Remember for a while that an admission had to read the rules of a user."""
        self._ruled_until_s[tenant] = self._clock_s() + RULED_S
