"""Asks who a client is before anything else reads the request.

app.add_middleware(AuthMiddleware, authenticator=ApiKeys({"alice": "sha256:..."}))
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, without
from gateway.middleware.refusal import refuse


@dataclass(frozen=True)
class Identity:
    """Who a client is: a name for log and rate limit, and request fields that tell the service."""

    user: str
    fields: tuple[tuple[bytes, bytes], ...] = ()


class Authenticator(Protocol):
    """One way of telling who a client is."""

    credential_fields: frozenset[bytes]
    """Request fields that carry the credentials."""
    identity_fields: frozenset[bytes]
    """Request fields that only the gateway may set."""

    def authenticate(self, scope: Scope) -> Awaitable[Identity]:
        """Who sent the request. Raises Unauthorized or Forbidden, or what keeps it from knowing."""
        ...


class AuthMiddleware:
    """Lets only those in whom ``authenticator`` knows.

    Fields that tell who the client is are taken from every request first, so that nobody can forge them; the
    credentials go on to the service only with ``forward_credentials``.
    """

    def __init__(self, app: ASGIApp, *, authenticator: Authenticator, forward_credentials: bool = False) -> None:
        self.app = app
        self.authenticator = authenticator
        removed = authenticator.identity_fields
        if not forward_credentials:
            removed |= authenticator.credential_fields
        self._removed = removed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            identity = await self.authenticator.authenticate(scope)
        except GatewayError as error:
            await refuse(error, scope, send)
            return
        exchange = exchange_of(scope)
        if exchange is not None:
            exchange.user = identity.user
        headers: Fields = [*without(scope["headers"], self._removed), *identity.fields]
        await self.app({**scope, "headers": headers}, receive, send)


def single_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a field that stands in the request exactly once; of two, nobody could say which one counts."""
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else None
