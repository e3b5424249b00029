"""The end of a route's chain for WebSockets: shake hands with an upstream, accept the client, pass on what comes.

There are two ways of that. A Tunnel passes bytes, where the server leaves the client's connection to it, as that of
``gateway run`` does. A Relay passes messages: under other servers, to applications in this process, and where a
middleware of the route wraps ``receive`` or ``send``. Both hold the same limits, and neither has extensions: an offer
of permessage-deflate is not passed on, since ``max_message`` is about messages as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from gateway.errors import (
    CapacityError,
    ClientLeft,
    ConnectFailed,
    ConnectPending,
    ResponseBroken,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.exchange import Attempt, Exchange, exchange_of
from gateway.http.fields import Fields, without
from gateway.http.websocket import end_to_end
from gateway.proxy.websocket_client import WebSocketClient
from gateway.proxy.websocket_live import LiveWebSockets
from gateway.proxy.websocket_opening import open_websocket
from gateway.proxy.websocket_relay import (
    ClientMessages,
    Ending,
    Relay,
    UpstreamSocket,
    WebSocketSettings,
)
from gateway.proxy.websocket_tunnel import TUNNEL, Tunnel, TunnelOpening, is_unseen
from gateway.upstream.asgi import AsgiTransport
from gateway.upstream.http1_connect import ATTEMPT_DELAY_S, Patience
from gateway.upstream.outlier import FAILURE_STATUSES

__all__ = ["LiveWebSockets", "WebSocketProxy", "WebSocketSettings"]

_SWITCHING = 101
_DATE = frozenset([b"date"])
# Extension that only the gateway's own server offers.
_OWN_SERVER = "gateway.target"
_BODILESS = frozenset([204, 304])
# Some servers hold a refusal in memory until it is complete.
_MAX_REFUSAL_BYTES = 1024 * 1024


class Endpoint(Protocol):
    """What is needed of an endpoint; ``transport`` is an AsgiTransport, or has ``open_connection``."""

    @property
    def label(self) -> str: ...
    @property
    def authority(self) -> bytes: ...
    @property
    def transport(self) -> Any: ...


class Upstream(Protocol):
    """What is needed of an upstream: endpoints to hold for the life of a WebSocket."""

    settings: Any
    has_choice: bool

    def try_acquire(self, scope: Scope, tried: Sequence[Any], /) -> Any | None: ...
    async def acquire(self, scope: Scope, tried: Sequence[Any], timeout_s: float, /) -> Any: ...
    def has_another(self, endpoint: Any, tried: Sequence[Any], /) -> bool: ...
    def release(self, endpoint: Any, /) -> None: ...
    def release_after(self, endpoint: Any, outcome: asyncio.Future[Any], /) -> None: ...
    def record(self, endpoint: Any, /, *, ok: bool, error: str = "") -> None: ...
    def sticky_cookie(self, scope: Scope, endpoint: Any, /, *, secure: bool) -> bytes | None: ...


class WebSocketProxy:
    """Passes WebSockets on to an upstream.

    1 take the client's connect   2 choose an endpoint and shake hands with it, or with the next when it cannot be
    reached   3 relay a refusal   4 accept the client with what the upstream chose   5 pass on until either end closes
    6 let go of the endpoint

    ``build_request`` gives target and fields of the request to one endpoint; the handshake's own fields are added here.
    ``clean_fields`` makes an answer's fields those that the client sees. ``timeout_s`` is the time to the answer, all
    attempts and queueing included. Without ``tunnel`` it is always a Relay. Raises the errors of ``gateway.errors`` for
    whoever answers them.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        build_request: Callable[[Scope, Any], tuple[bytes, Fields]],
        clean_fields: Callable[[Scope, int, Fields], Fields],
        live: LiveWebSockets,
        settings: WebSocketSettings | None = None,
        timeout_s: float = 30.0,
        tunnel: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstream = upstream
        self._build_request = build_request
        self._clean_fields = clean_fields
        self._live = live
        self._settings = settings or WebSocketSettings()
        self._timeout_s = timeout_s
        self._tunnel = tunnel
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope) or Exchange("GET", scope.get("raw_path") or b"", self._clock)
        exchange.upstream = self.upstream.settings.name
        # :: Step 1
        client = ClientMessages(receive)
        if (await client.next())["type"] != "websocket.connect":
            raise ClientLeft("the client left before its WebSocket was looked at")
        relay = Relay(client, send, exchange, self._settings)
        opening = TunnelOpening if self._tunnel and is_unseen(scope, receive, send) else WebSocketClient
        try:
            with self._live.holding(relay):
                await self._serve(scope, exchange, client, send, relay, opening)
        finally:
            await client.aclose()

    async def _serve(
        self,
        scope: Scope,
        exchange: Exchange,
        client: ClientMessages,
        send: Send,
        relay: Relay,
        opening: type[WebSocketClient],
    ) -> None:
        # :: Step 2
        with client.ends_with_client():
            endpoint, socket = await self._open(scope, exchange, opening)
        try:
            if self.upstream.settings.sticky is not None:
                self._stick(scope, exchange, endpoint)
            if socket.status != _SWITCHING:
                # :: Step 3
                await self._refuse(scope, exchange, socket, send)
                return
            if isinstance(socket, TunnelOpening):
                tunnel = Tunnel(socket, exchange, self._settings)
                with self._live.replacing(relay, tunnel):
                    # :: Step 4
                    await client.aclose()
                    await self._accept(scope, exchange, socket, send, tunnel)
                    # :: Step 5
                    self._conclude(endpoint, exchange, await tunnel.run())
                return
            # :: Step 4
            await self._accept(scope, exchange, socket, send, None)
            # :: Step 5
            self._conclude(endpoint, exchange, await relay.run(socket))
        finally:
            # :: Step 6
            socket.abort()
            self.upstream.release(endpoint)

    async def _open(
        self, scope: Scope, exchange: Exchange, opening: type[WebSocketClient]
    ) -> tuple[Any, UpstreamSocket]:
        """The endpoint that answered, held, and its answer."""
        upstream = self.upstream
        deadline = self._clock() + self._timeout_s
        tried: list[Any] = []
        passed: list[Any] = []
        """Endpoints that have not failed, but took long to connect to."""
        failure: UpstreamError | None = None
        while True:
            others = [*tried, *passed]
            try:
                endpoint = upstream.try_acquire(scope, others)
                if endpoint is None:
                    endpoint = await upstream.acquire(scope, others, self._remaining_s(deadline))
            except (CapacityError, UpstreamTimeout):
                if failure is not None:
                    raise failure from None
                raise
            try:
                if failure is not None and endpoint in tried:
                    raise failure
                passes = upstream.has_choice and upstream.has_another(endpoint, others)
                patience = (
                    Patience(ATTEMPT_DELAY_S, partial(upstream.has_another, endpoint, others)) if passes else None
                )
                socket = await self._attempt(scope, exchange, endpoint, deadline, opening, patience)
            except ConnectPending as error:
                upstream.release_after(endpoint, error.outcome)
                passed.append(endpoint)
                continue
            except UpstreamError as error:
                upstream.release(endpoint)
                if error is failure:
                    raise
                upstream.record(endpoint, ok=False, error=error.reason)
                # What was never sent may go to the next endpoint; what was may have been acted on.
                if error.request_sent:
                    raise
                failure = error
                tried.append(endpoint)
                passed.clear()
                continue
            except BaseException:
                upstream.release(endpoint)
                raise
            upstream.record(endpoint, ok=socket.status not in FAILURE_STATUSES)
            return endpoint, socket

    async def _attempt(
        self,
        scope: Scope,
        exchange: Exchange,
        endpoint: Endpoint,
        deadline: float,
        opening: type[WebSocketClient],
        patience: Patience | None,
    ) -> UpstreamSocket:
        """One handshake with one endpoint."""
        attempt = Attempt(endpoint.label, self._clock())
        exchange.attempts.append(attempt)
        try:
            try:
                async with asyncio.timeout(self._remaining_s(deadline)):
                    socket = await self._shake_hands(scope, exchange, endpoint, opening, patience)
            except TimeoutError:
                raise self._too_late() from None
        except UpstreamError as error:
            attempt.outcome = type(error).__name__
            attempt.failed_s = self._clock() - attempt.started
            raise
        attempt.head_s = self._clock() - attempt.started
        attempt.status = socket.status
        attempt.outcome = "ok"
        return socket

    async def _shake_hands(
        self,
        scope: Scope,
        exchange: Exchange,
        endpoint: Endpoint,
        opening: type[WebSocketClient],
        patience: Patience | None,
    ) -> UpstreamSocket:
        target, fields = self._build_request(scope, endpoint)
        if all(name != b"host" for name, _ in fields):
            fields = [(b"host", endpoint.authority), *fields]
        transport = endpoint.transport
        subprotocols = scope.get("subprotocols") or ()
        max_bytes = self._settings.max_message_bytes
        if isinstance(transport, AsgiTransport):
            return await transport.open_websocket(
                target=target,
                fields=fields,
                subprotocols=subprotocols,
                max_message_bytes=max_bytes,
                scheme="wss" if "https" in (exchange.scheme, scope.get("scheme")) else scope.get("scheme", "ws"),
                client=(exchange.client, 0) if exchange.client else scope.get("client"),
            )
        if not hasattr(transport, "open_connection"):
            raise ConnectFailed(f"the transport of {endpoint.label} carries no WebSockets")
        return await open_websocket(
            transport,
            target=target,
            fields=fields,
            subprotocols=subprotocols,
            max_message_bytes=max_bytes,
            make=opening,
            patience=patience,
        )

    async def _refuse(self, scope: Scope, exchange: Exchange, socket: UpstreamSocket, send: Send) -> None:
        """Give the client the upstream's own answer, as far as the server can send one."""
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close"})
            exchange.status = socket.status
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._relay_refusal(scope, exchange, socket, send)
        except TimeoutError:
            raise ResponseBroken(f"the refusal of a WebSocket took longer than {self._timeout_s:g} s") from None
        except OSError as error:
            raise ClientLeft("the client left during the handshake") from error

    async def _relay_refusal(self, scope: Scope, exchange: Exchange, socket: UpstreamSocket, send: Send) -> None:
        status = socket.status
        fields = self._clean_fields(scope, status, socket.fields)
        if status in _BODILESS:
            fields = [field for field in fields if field[0] != b"content-length"]
        await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
        async for piece in socket.body():
            exchange.body_bytes_out += len(piece)
            if exchange.body_bytes_out > _MAX_REFUSAL_BYTES:
                raise ResponseBroken(f"the refusal of a WebSocket exceeds {_MAX_REFUSAL_BYTES} bytes")
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})

    async def _accept(
        self, scope: Scope, exchange: Exchange, socket: UpstreamSocket, send: Send, tunnel: Tunnel | None
    ) -> None:
        head: Message = {
            "type": "http.response.start",
            "status": _SWITCHING,
            "headers": end_to_end(self._clean_fields(scope, _SWITCHING, socket.fields)),
        }
        for rule in exchange.response_rules:
            rule(scope, head)
        if _OWN_SERVER not in (scope.get("extensions") or {}):
            # Other servers add theirs, and one of uvicorn's fails where there are two.
            head["headers"] = without(head["headers"], _DATE)
        accept = {"type": "websocket.accept", "subprotocol": socket.subprotocol, "headers": head["headers"]}
        if tunnel is not None:
            accept[TUNNEL] = tunnel
        try:
            await send(accept)
        except OSError as error:
            raise ClientLeft("the client left during the handshake") from error
        if tunnel is not None and not tunnel.is_joined:
            raise ClientLeft("the client left during the handshake")

    def _conclude(self, endpoint: Endpoint, exchange: Exchange, ending: Ending) -> None:
        exchange.outcome = ending.outcome
        if ending.upstream_failed:
            self.upstream.record(endpoint, ok=False)

    def _stick(self, scope: Scope, exchange: Exchange, endpoint: Endpoint) -> None:
        cookie = self.upstream.sticky_cookie(scope, endpoint, secure=exchange.scheme == "https")
        if cookie is not None:
            exchange.response_fields.append((b"set-cookie", cookie))

    def _remaining_s(self, deadline: float) -> float:
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise self._too_late()
        return remaining

    def _too_late(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"no answer to the handshake within {self._timeout_s:g} s")
