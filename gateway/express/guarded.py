"""The lane of a guarded route: what its guards can decide without waiting is decided before the request begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.exchange import Admitted, Exchange
from gateway.express.exchange import ExpressExchange
from gateway.middleware.access import AccessMiddleware
from gateway.middleware.auth import NAMELESS, AuthMiddleware, Identity
from gateway.middleware.concurrency import ConcurrencyMiddleware
from gateway.middleware.overload import OverloadMiddleware
from gateway.middleware.rate_limit import RateLimitMiddleware

if TYPE_CHECKING:
    from gateway.express.table import Express, ExpressClient, Lane, Passing, Way


@dataclass(slots=True)
class Guards:
    """The layers of a route that decide who may use it, and how much; None for those that it does not have."""

    overload: OverloadMiddleware | None = None
    concurrency: ConcurrencyMiddleware | None = None
    access: AccessMiddleware | None = None
    rate_limit: RateLimitMiddleware | None = None
    auth: AuthMiddleware | None = None

    @property
    def are_none(self) -> bool:
        """Whether everybody may pass."""
        guards = (self.overload, self.concurrency, self.access, self.rate_limit, self.auth)
        return all(guard is None for guard in guards)

    @property
    def answer_at_once(self) -> bool:
        """Whether none of them always has to be waited for."""
        limit, auth = self.rate_limit, self.auth
        return (limit is None or limit.counts_at_once) and (auth is None or auth.known is not None)


class Pass:
    """A client whom the guards of a route know, as the route sees it from then on."""

    __slots__ = ("_guards", "_key", "admitted", "identity")

    def __init__(self, guards: Guards, sent: Admitted, identity: Identity | None) -> None:
        self.identity = identity
        """Who the fields said it is."""
        self.admitted = None if guards.auth is None or identity is None else _identified(sent, guards.auth, identity)
        """The header section that goes on, without credentials and with what tells the service who the client is; None
        for the one that was sent, which knows this: to name it here would leave both to the garbage collector."""
        self._guards = guards
        limit = guards.rate_limit
        user = sent.user if self.admitted is None else self.admitted.user
        # By a name it counts behind authentication, by a field before it: what the client sent.
        self._key = "" if limit is None else limit.key(sent.identity.client, user, sent.fields)

    def count(self, exchange: Exchange) -> bool:
        """Count a request that is certain to begin; False, and nothing is counted, when it exceeds the rate limit."""
        limit = self._guards.rate_limit
        if limit is not None:
            fields = limit.count_now(self._key)
            if fields is None:
                return False
            exchange.response_fields += fields
        return True

    def hold(self, begun: ExpressExchange) -> None:
        """Take one of the route's places, until the exchange has ended."""
        concurrency = self._guards.concurrency
        if concurrency is not None:
            concurrency.in_flight.count += 1
            begun.place = concurrency.in_flight


class GuardedLane:
    """``lane``, for those whom every guard lets pass at once; the others are for the layers to refuse or to ask.

    The rate limit comes last, when nothing else can keep the request from beginning: whatever takes the long way after
    all is counted there.
    """

    def __init__(self, lane: Lane, guards: Guards) -> None:
        self.name = lane.name
        self._lane = lane
        self._guards = guards
        self._counts = guards.rate_limit is not None or guards.concurrency is not None

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Go on as ``lane`` does; False for whom a layer would refuse, or would have to wait for."""
        guards = self._guards
        if guards.overload is not None and guards.overload.overload(arriving=1):
            return False
        if guards.concurrency is not None and not guards.concurrency.has_room:
            return False
        known = self._pass(admitted)
        if known is None:
            return False
        admitted = known.admitted or admitted
        return self._lane.begin(express, admitted, target, way, client, known if self._counts else None)

    def _pass(self, admitted: Admitted) -> Pass | None:
        """The pass of a client; None for one that is not let in, or not without asking elsewhere."""
        auth = self._guards.auth
        # Who the client is is asked for every request: what was said of somebody may hold no longer.
        identity = None
        if auth is not None:
            identity = None if auth.known is None else auth.known(admitted.fields)
            if identity is None:
                return None
        known: Pass | None = admitted.notes.get(self)
        if known is None or known.identity != identity:
            access = self._guards.access
            if access is not None and not access.admits(admitted.identity.client):
                return None
            known = Pass(self._guards, admitted, identity)
            admitted.note(self, known)
        return known


def _identified(admitted: Admitted, auth: AuthMiddleware, identity: Identity) -> Admitted:
    fields = auth.fields_for(identity, admitted.fields)
    return Admitted(
        admitted.identity,
        admitted.host,
        admitted.public_host,
        admitted.request_id,
        fields,
        has_certificate=admitted.has_certificate,
        prefix=admitted.prefix,
        user=identity.user or NAMELESS,
    )
