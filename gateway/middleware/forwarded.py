"""Finds out who the client is behind trusted proxies, and keeps anybody else from claiming to be someone.

app.add_middleware(ForwardedMiddleware, trusted_proxies=["10.0.0.0/8", "unix"])
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.fields import Fields, get_first
from gateway.http.forwarded import X_FORWARDED_FOR, Field, Identity, client_identity, forwarding_fields
from gateway.http.hop_by_hop import admitted_fields
from gateway.http.networks import UNIX, Networks

IDENTITY_KEY = "gateway.identity"
"""Where the Identity of a request stands in the ASGI scope."""

_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss"}


class ClientIdentity:
    """Judges requests: ``trusted_proxies`` are networks or ``unix``, ``source`` is the one field that is believed."""

    def __init__(self, *, trusted_proxies: Sequence[str] = (), source: str = X_FORWARDED_FOR) -> None:
        self.trusted = Networks(trusted_proxies)
        self.source = source
        named = source.lower().removeprefix("header:") if source.startswith("header:") else ""
        self._source_field = frozenset([named.encode("ascii")] if named else [])

    def identify(self, scope: Scope) -> Identity:
        """Where the request comes from; a peer without an address is one on a UNIX socket."""
        client = scope.get("client")
        peer = (client[0] if client else "") or UNIX
        return client_identity(
            peer, scope["headers"], trusted=self.trusted, source=self.source, scheme=scope.get("scheme", "http")
        )

    def admitted(self, scope: Scope, identity: Identity) -> Fields:
        """The fields of a request without forged ones: see ``admitted_fields``.

        A field of its own that names the client is taken from everyone but trusted proxies.
        """
        if identity.trusted or not self._source_field:
            return admitted_fields(scope["headers"])
        return admitted_fields(scope["headers"], drop=self._source_field)


def identity_fields(scope: Scope) -> tuple[Field, ...]:
    """The fields that tell the next hop who the client is, of a request that carries an Identity in its scope."""
    identity: Identity = scope[IDENTITY_KEY]
    host = get_first(scope["headers"], b"host") or b""
    return forwarding_fields(identity.chain, identity.peer, host, identity.scheme)


class ForwardedMiddleware:
    """Sets ``scope["client"]`` and ``scope["scheme"]`` to those of the client, and makes the forwarding fields anew.

    ``client_ip_from`` is ``x-forwarded-for``, ``forwarded`` or ``header:NAME``: the one field that is believed. Fields
    whose names have an underscore are dropped, for a WSGI service could not tell them from others.
    """

    def __init__(
        self, app: ASGIApp, *, trusted_proxies: Sequence[str] = (), client_ip_from: str = X_FORWARDED_FOR
    ) -> None:
        self.app = app
        self._judge = ClientIdentity(trusted_proxies=trusted_proxies, source=client_ip_from)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        identity = self._judge.identify(scope)
        client = scope.get("client")
        if identity.client not in (identity.peer, UNIX, ""):
            # The port belongs to the connection of the peer.
            client = (identity.client, 0)
        scope = {
            **scope,
            IDENTITY_KEY: identity,
            "headers": self._judge.admitted(scope, identity),
            "client": client,
            "scheme": _WEBSOCKET_SCHEMES[identity.scheme] if kind == "websocket" else identity.scheme,
        }
        scope["headers"] += identity_fields(scope)
        await self.app(scope, receive, send)
