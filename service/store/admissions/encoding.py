"""The encoding of questions for `lua/admit.lua`, and the decoding of its answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from service.core.admission import Admission, Decided, Question, Terms
from service.core.errors import StoreUnavailable
from service.core.limits import MICRO, Limit, LimitState, Per
from service.store.connection.failures import RECORD, kind_of_text
from service.store.keyspace import TenantKeys
from service.store.scripts import AHEAD, LACKS_INDEXES, LACKS_RULES, STATUSES, parse_record


class LacksKeys(StoreUnavailable):
    """Nothing was done for a question, since keys that it takes were not sent.

    Args:
        reason: one of `LACKS_INDEXES` and `LACKS_RULES`.
    """


def encode(
    of: TenantKeys,
    groups: Sequence[Sequence[Question]],
    settings: str,
    why_not: str,
    keys: list[str],
    args: list[str | int],
    with_indexes: bool = True,
    with_rules: bool = True,
) -> None:
    """Append the arguments of `lua/admit.lua` for a tenant's questions, grouped by the shape of their terms.

    Args:
        of: the tenant's keys.
        groups: at least one; none of them is empty.
        settings: `seen_every` and `logout_grace` in ms, with a space between them.
        why_not: the kind of error that says why Redis takes no writes; empty: it takes them.
        keys: gets the keys.
        args: gets the arguments.
        with_indexes: send the keys of the tenant's indexes. Without them a question that changes a record is answered
            by `LacksKeys`.
        with_rules: the same for the rules of users, which are only read where the tenant has rules of that kind.
    """
    with_indexes = with_indexes and any(group[0].terms.knows_users for group in groups)
    keys.append(of.rules)
    if with_indexes:
        keys += of.shared
    begins = f"{settings} {with_indexes:d}{with_rules:d} {why_not}".rstrip()
    own, own_rules = of.user(""), of.user_rules("")
    first = "T"
    for group in groups:
        args.append(f"{first}{begins}\n{_shape(group[0].terms)}")
        first = "G"
        windows = [(of.window(limit.name, ""), limit) for limit in group[0].terms.limits]
        before: Terms | None = None
        for question in group:
            terms, identity = question.terms, question.user
            for window, limit in windows:
                keys.append(window + question.subject(limit))
            if identity is None:
                args.append("0")
                continue
            keys.append(own + identity.user)
            if with_rules:
                keys.append(own_rules + identity.user)
            if terms is not before:
                before, (restricted, needs) = terms, _needs(terms)
            passive = "1" if question.passive else "0"
            issued_s = identity.issued_s
            issued = "" if issued_s is None else issued_s
            if isinstance(issued, float):  # most are whole; a fraction is exact to a millisecond
                issued = math.floor(issued * 1000) / 1000
            args.append(
                f"{passive}{restricted}{identity.expires_ms:013d} {issued} {question.client} {question.request_id} "
                f"{needs} {identity.user}"
            )


@lru_cache(maxsize=4096)
def _shape(terms: Terms) -> str:
    """Return the text of a group; `lua/admit.lua` reads the same text only once."""
    limits = "\n".join(
        f"{limit.name} {limit.requests} {limit.window_s * MICRO} {_KINDS[limit.shadow, limit.per is Per.USER]}"
        for limit in terms.limits
    )
    cause, reason = (terms.cause.value, terms.reason) if terms.knows_users else ("", "")
    return f"{cause}\n{limits}\n\n{reason}"


@lru_cache(maxsize=4096)
def _needs(terms: Terms) -> tuple[str, str]:
    """Return whether the configuration restricts the request (1 or 0), and the capabilities that it needs."""
    return "0" if terms.restricted is None else "1", ",".join(terms.capabilities)


def decode(
    question: Question,
    reply: Iterator[Any],
    learn: Callable[[str | None, Limit], None],
    note_ahead: Callable[[str, int], None] = lambda tenant, accepted_from_s: None,
) -> Decided:
    """Read the answer of `lua/admit.lua` to the next question.

    Args:
        question: the next one that was asked.
        reply: what is left of the answer.
        learn: is called with a limit that an operator has set for the tenant.
        note_ahead: is called with a tenant, and the second from which tokens are accepted, where a revocation lies
            ahead of Redis's clock.

    Raises:
        StopIteration: the answer ends before it should.
    """
    terms, user, limit_states, may_be_full = question.terms, question.user, [], False
    record: bytes | int | None = b""
    before, restricted_at = None, 0
    if user is not None:
        record = next(reply)
        if not isinstance(record, bytes):
            if record is None:
                return _own_error(next(reply))
            if record == _CHANGED:
                before, record, restricted_at = next(reply), next(reply), next(reply)
    for limit in terms.limits:
        used, over = next(reply), 0
        if used is None:
            return _own_error(next(reply))
        reset_us = next(reply)
        if isinstance(used, bytes):  # an operator has set the limit
            used, over, requests, window_s = map(int, used.split())
            learn(terms.tenant, limit := limit.changed(requests, window_s))
        elif used >= 0:
            used, over = used >> 1, used & 1
        if used >= 0:
            limit_states.append(LimitState(limit, used, reset_us, over == 1))
            may_be_full |= used >= limit.requests
    if user is None or not isinstance(record, bytes):
        return Admission(limit_states, may_be_full=may_be_full)
    # The whole answer is read: a record that the service did not write is an error of this question only.
    try:
        session = parse_record(user.user, record)
        came_from = None
        if before is not None and before[0] != (record[0] if record else _NOBODY):
            came_from = STATUSES[before.decode()]
    except (KeyError, ValueError) as error:
        return StoreUnavailable(f"the record of a user cannot be read: {error!r}", RECORD)
    if restricted_at < 0:
        ahead = restricted_at < -AHEAD
        accepted_from_s = None if restricted_at == -1 else 1 - restricted_at - (AHEAD if ahead else 0)
        if ahead and accepted_from_s is not None:
            note_ahead(user.tenant, accepted_from_s)
        return Admission(limit_states, session, None, None, may_be_full, True, accepted_from_s, ahead)
    restricted = terms.restricted or terms.capabilities[restricted_at - 1] if restricted_at else None
    return Admission(limit_states, session, came_from, restricted, may_be_full)


def _own_error(text: bytes) -> StoreUnavailable:
    reason = text.decode(errors="replace")
    kind = kind_of_text(reason)
    return LacksKeys(reason, kind) if reason in (LACKS_INDEXES, LACKS_RULES) else StoreUnavailable(reason, kind)


_NOBODY = ord("-")
_CHANGED = 1
"""What precedes an answer that says more of a user than its record. Zero is in place of an answer about no user."""
_KINDS = {(False, False): "-", (False, True): "u", (True, False): "s", (True, True): "su"}
"""Whether a limit is a shadow limit, and per user, as the function reads it."""
