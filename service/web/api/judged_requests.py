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
from service.web.api.client_address import client_address, client_forwarded_for, reads_x_forwarded_for
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
    forwarded_by: str | None
    """The address of the proxy whose `X-Forwarded-For` names the client; None: that field decides nothing."""
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
            own: what it has in place of this one's token, request id and client; None: its bytes are the same.

        Returns:
            None: the configuration or the keys have changed, or the token or the address is to be looked at once more.
            The request has to be judged like a new one.
        """
        policy, tenant = services.policy.current, self.tenant
        if self.policy is not policy or self.key_generation is not tenant.ring.generation:
            return None
        user, terms, client = self.user, self.terms, self.client
        failure: Failure | None = None
        if own is None:
            if time.time() >= self.until_s:
                return None
            request_id = self.request_id or new_request_id()
        else:
            if own.forwarded_for is not None and self.forwarded_by is not None:
                found = client_forwarded_for(self.forwarded_by, own.forwarded_for, policy.client_address)
                if found is None:
                    return None
                client = found
            if own.token is None or user is None:
                if time.time() >= self.until_s:
                    return None
            else:
                try:
                    user, failure = services.identify(tenant.ring, own.token)
                except (UnknownKey, KeysUnavailable):
                    return None
                if user is None:
                    terms = terms.anonymous
            if own.request_id is None:
                request_id = self.request_id or new_request_id()
            else:
                request_id = accepted_request_id(own.request_id, policy)
        context = app_keys.RequestContext(services, request_id)
        operation, context.customer = self.operation, tenant
        context.operation, context.reads = operation.name, operation.reads
        context.tenant, context.client, context.original = tenant.name, client, self.original
        return context, Question(terms, client, request_id, user, self.passive, failure)

    def like(self, own: OwnFields, question: Question) -> "JudgedRequest | None":
        """Return the judgement of a request that `repeat` has answered, for further requests of the same bytes.

        Args:
            own: the fields of that request.
            question: what `repeat` returned for it.

        Returns:
            None: its token was refused, so each request needs a judgement of its own.
        """
        user, tenant, request_id = question.user, self.tenant, self.request_id
        if question.failure is not None:
            return None
        if own.request_id is not None:
            request_id = own.request_id if own.request_id == question.request_id else None
        return JudgedRequest(
            self.policy,
            self.key_generation,
            tenant.ring.expiry_s(user) if user is not None else math.inf,
            request_id,
            self.operation,
            tenant,
            question.client,
            self.forwarded_by,
            self.original,
            question.terms,
            user,
            question.passive,
        )


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
        request.remote if reads_x_forwarded_for(request.remote, policy.client_address) else None,
        context.original,
        question.terms,
        user,
        question.passive,
    )
