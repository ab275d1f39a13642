"""What is kept of an earlier request for those that are like it: their caller and their terms.

It holds for as long as the configuration, the tenant's keys and the token do. What is decided anew for each request
(limits, the session, restrictions, revocations) is not in it: Redis decides that.
"""

import math
import time
from dataclasses import dataclass

from service.core.admission import Failure, Question, Terms
from service.core.errors import KeysUnavailable, UnknownKey
from service.core.tenants import Tenant
from service.core.tokens.claims import Identity
from service.web import app_keys
from service.web.api.client_address import client_address
from service.web.api.envelope import accepted_request_id, new_request_id
from service.web.policy import Policy
from service.web.server.head_templates import OwnFields
from service.web.server.request_head import RequestHead


@dataclass(slots=True, eq=False)
class JudgedRequest:
    """One that may be admitted, from an address that nothing is to be reported about."""

    policy: Policy
    key_generation: object
    until_s: float
    """When the token's time is over, in seconds since the epoch."""
    request_id: str | None
    """The one that the client sends; None: each request gets a new one."""
    operation: app_keys.Operation
    tenant: Tenant
    client: str
    original: tuple[str, str] | None
    terms: Terms
    user: Identity | None
    """The caller; None on an open route."""
    passive: bool

    def repeat(
        self, services: app_keys.RequestServices, own: OwnFields | None = None
    ) -> tuple[app_keys.RequestContext, Question] | None:
        """Return the context and the question of a further request.

        Args:
            services: what the steps of a request ask of the rest of the service.
            own: what it has in place of this one's token and request id; None: its bytes are the same.

        Returns:
            None: the configuration or the keys have changed, or the token is to be looked at once more. The request has
            to be judged like a new one.
        """
        policy, tenant = services.policy.current, self.tenant
        if self.policy is not policy or self.key_generation is not tenant.ring.generation:
            return None
        user, terms = self.user, self.terms
        failure: Failure | None = None
        if own is None or own.token is None or user is None:
            if time.time() >= self.until_s:
                return None
        else:
            try:
                user, failure = services.identify(tenant.ring, own.token)
            except (UnknownKey, KeysUnavailable):
                return None
            if user is None:
                terms = terms.anonymous
        if own is None or own.request_id is None:
            request_id = self.request_id or new_request_id()
        else:
            request_id = accepted_request_id(own.request_id, policy)
        context = app_keys.RequestContext(services, request_id)
        operation, context.customer = self.operation, tenant
        context.operation, context.reads = operation.name, operation.reads
        context.tenant, context.client, context.original = tenant.name, self.client, self.original
        return context, Question(terms, self.client, request_id, user, self.passive, failure)


def judged(
    request: RequestHead, context: app_keys.RequestContext, operation: app_keys.Operation, question: Question
) -> JudgedRequest | None:
    """Return what can be said of the next request of the same bytes; None: it has to be judged like this one."""
    policy, tenant, user = context.services.policy.current, context.customer, question.user
    if tenant is None or question.failure is not None:
        return None
    problems: list[str] = []
    client = client_address(
        request.remote, request.headers, policy.client_address, lambda problem, _: problems.append(problem)
    )
    if problems or client != context.client:
        return None
    return JudgedRequest(
        policy,
        tenant.ring.generation,
        tenant.ring.expiry_s(user) if user is not None else math.inf,
        context.request_id if context.request_id == request.headers.get("x-request-id") else None,
        operation,
        tenant,
        client,
        context.original,
        question.terms,
        user,
        question.passive,
    )
