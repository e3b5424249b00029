"""Asks who a client is before anything else reads the request.

app.add_middleware(AuthMiddleware, authenticator=ApiKeys({"alice": "sha256:..."}))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, with_hyphens, without
from gateway.middleware.refusal import answer, refuse

NAMELESS = "authenticated"
"""The name of those who are known, but not by name: whoever was let in must never look like nobody."""


class Identity(NamedTuple):
    """Who a client is: a name for log and rate limit, and request fields that tell the service."""

    user: str
    fields: tuple[tuple[bytes, bytes], ...] = ()


class Elsewhere(NamedTuple):
    """What the client gets instead of the resource, such as the way to a page where it can log in."""

    status: int
    fields: Fields


class Authenticator(Protocol):
    """One way of telling who a client is."""

    credential_fields: frozenset[bytes]
    """Request fields that carry the credentials."""
    identity_fields: frozenset[bytes]
    """Request fields that only the gateway may set."""

    def authenticate(self, scope: Scope) -> Awaitable[Identity | Elsewhere]:
        """Who sent the request. Raises Unauthorized or Forbidden, or what keeps it from knowing."""
        ...


@runtime_checkable
class KnowsAtOnce(Protocol):
    """An authenticator that need not always wait."""

    def known(self, headers: Fields) -> Identity | None:
        """Whom ``authenticate`` would find by these fields, when it has nothing to wait for; None for all else."""
        ...


class Fetched(Protocol):
    """An answer to a fetch; names of fields in lower case."""

    @property
    def status(self) -> int: ...

    @property
    def fields(self) -> Fields: ...

    @property
    def body(self) -> bytes: ...


Fetch = Callable[[str, Sequence[tuple[bytes, bytes]]], Awaitable[Fetched]]
"""Gets a URL with these request fields, without redirects, bounded in size and time. Raises GatewayError."""


class AuthMiddleware:
    """Lets only those in whom ``authenticator`` knows.

    Fields that tell who the client is are taken from every request first, so that nobody can forge them; the
    credentials go on to the service only with ``forward_credentials``.
    """

    def __init__(self, app: ASGIApp, *, authenticator: Authenticator, forward_credentials: bool = False) -> None:
        self.app = app
        self.authenticator = authenticator
        removed = with_hyphens(authenticator.identity_fields)
        if not forward_credentials:
            removed |= authenticator.credential_fields
        self._removed = removed
        self.known = authenticator.known if isinstance(authenticator, KnowsAtOnce) else None
        """Tells who sent some fields, where that takes no waiting; None when it always does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            identity = await self.authenticator.authenticate(scope)
        except GatewayError as error:
            await refuse(error, scope, send)
            return
        if isinstance(identity, Elsewhere):
            await answer(identity.status, [*identity.fields, (b"content-length", b"0")], b"", scope, send)
            return
        exchange = exchange_of(scope)
        if exchange is not None:
            exchange.user = identity.user or NAMELESS
        await self.app({**scope, "headers": self.fields_for(identity, scope["headers"])}, receive, send)

    def fields_for(self, identity: Identity, headers: Fields) -> Fields:
        """The fields of a request of somebody who is let in, as the service gets them."""
        return [*without(headers, self._removed), *identity.fields]


def single_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a field that stands in the request exactly once; of two, nobody could say which one counts."""
    found = None
    for key, value in headers:
        if key == name:
            if found is not None:
                return None
            found = value
    return found
