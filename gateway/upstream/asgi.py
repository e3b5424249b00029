"""Upstreams in this process: an ASGI application behind the same seam as a server on the network."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp

from gateway.http.fields import Fields
from gateway.http.websocket import handshake_fields, make_key
from gateway.upstream.asgi_exchange import AsgiExchange
from gateway.upstream.asgi_lifespan import AppLifespan
from gateway.upstream.asgi_task import GRACE_S, AppTasks
from gateway.upstream.asgi_websocket import AsgiWebSocket
from gateway.upstream.messages import InboundResponse, OutboundRequest

_DROPPED = frozenset([b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"])
# The bytes of a handshake key have no meaning where there is no wire.
_KEY = make_key(bytes(16))


def load_app(name: str) -> ASGIApp:
    """The application that ``package.module:attribute`` names. Raises ValueError, saying what failed."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{name!r} is not of the form package.module:app")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"the module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name!r} is not an ASGI application: it cannot be called")
    app: ASGIApp = found
    return app


class AsgiTransport(httpx.AsyncBaseTransport):
    """Passes requests to an application in this process, streaming both ways.

    ``app`` is the application, or ``package.module:app``. ``start`` and ``aclose`` run its lifespan; without ``start``
    it is served without one. Each request runs in a task: what the application raises is a 502 and a line in the log,
    and a client that leaves is told to it as ``http.disconnect``. Of the extensions it reads ``target``, ``timeout``
    (``head`` and ``read``, in seconds), ``scheme`` and ``client``.
    """

    def __init__(self, app: ASGIApp | str, *, name: str = "") -> None:
        self.name = name or (app if isinstance(app, str) else type(app).__name__)
        self.app = load_app(app) if isinstance(app, str) else app
        self._lifespan = AppLifespan(self.app, self.name)
        self._tasks = AppTasks(self.name)

    def __len__(self) -> int:
        """How many calls of the application are running."""
        return len(self._tasks)

    async def start(self) -> None:
        """Run the application's start-up. Raises UpstreamAppFailed when it says that it failed."""
        await self._lifespan.start()

    async def aclose(self) -> None:
        """Let what runs finish, some seconds at most, then run the application's shutdown."""
        await self._tasks.aclose(GRACE_S)
        await self._lifespan.aclose()

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        """Call the application; the response's body streams. Raises the errors of ``gateway.errors``."""
        extensions = request.extensions
        timeouts = extensions.get("timeout") or {}
        read_s = timeouts.get("read")
        method, fields, body = _parts(request)
        scope = self._scope(extensions.get("target") or request.url.raw_path, fields, request.url, extensions)
        scope["type"] = "http"
        scope["method"] = method
        exchange = AsgiExchange(self._tasks, method, body)
        await exchange.head(self.app, scope, timeouts.get("head", read_s))
        whole = exchange.whole()
        return InboundResponse(
            exchange.status,
            exchange.fields,
            None if whole is not None else AsgiStream(exchange, read_s),
            whole=whole,
            request_complete=exchange.request_complete,
        )

    async def open_websocket(
        self,
        *,
        target: bytes,
        fields: Fields,
        subprotocols: Sequence[str] = (),
        max_message_bytes: int = 16 * 1024 * 1024,
        scheme: str = "ws",
        client: Any = None,
    ) -> AsgiWebSocket:
        """Shake hands with the application; a refusal is an answer as well: look at ``status``.

        Raises UpstreamAppFailed or BadUpstreamResponse.
        """
        offered = list(subprotocols)
        extensions = {"scheme": scheme, "client": client}
        scope = self._scope(target, handshake_fields(fields, _KEY, offered), None, extensions)
        scope["type"] = "websocket"
        scope["subprotocols"] = offered
        scope["extensions"] = {"websocket.http.response": {}}
        socket = AsgiWebSocket(self._tasks, offered, max_message_bytes)
        await socket.handshake(self.app, scope)
        return socket

    def _scope(self, target: bytes, fields: Fields, url: httpx.URL | None, extensions: Any) -> dict[str, Any]:
        raw_path, _, query = target.partition(b"?")
        scheme = extensions.get("scheme") or (url.scheme if url is not None and url.scheme in _SCHEMES else "http")
        return {
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": scheme,
            "path": unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": fields,
            "client": extensions.get("client"),
            "server": _server(fields, scheme),
            "state": self._lifespan.state.copy(),
            "extensions": {},
        }


class AsgiStream(httpx.AsyncByteStream):
    """The body of an application's response."""

    def __init__(self, exchange: AsgiExchange, read_s: float | None) -> None:
        self._exchange = exchange
        self._read_s = read_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._exchange.next_piece(self._read_s)
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """Take no more; the application is told when it is not done."""
        self._exchange.close()

    async def aclose(self) -> None:
        """The same as ``close``."""
        self._exchange.close()


_SCHEMES = frozenset(["http", "https"])
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def _parts(request: httpx.Request) -> tuple[str, Fields, bytes | AsyncIterator[bytes] | None]:
    """Method, fields and body of a request of ours or of httpx."""
    body: Any
    if isinstance(request, OutboundRequest):
        method, fields, body = request.raw_method.decode("ascii"), request.raw_fields, request.body
    else:
        method, fields, body = request.method, request.headers.raw, request.stream
    kept = [(name.lower(), value) for name, value in fields if name.lower() not in _DROPPED]
    return method, kept, body if body is None or isinstance(body, bytes) else aiter(body)


def _server(fields: Fields, scheme: str) -> tuple[str, int] | None:
    """Host and port as the Host field has them."""
    host = next((value for name, value in fields if name == b"host"), b"").decode("latin-1")
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return name, int(port)
    return (host, _DEFAULT_PORTS.get(scheme, 80)) if host else None
