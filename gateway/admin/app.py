"""Health, readiness and metrics on a listener of their own."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import BadRequest
from gateway.http.authority import parse_authority

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OPEN_PATHS = frozenset(["/live", "/ready"])
_NOT_STORED = {"Cache-Control": "no-store"}


def create_admin(*, is_ready: Callable[[], bool], exposition: Callable[[], bytes], token: str | None = None) -> ASGIApp:
    """The admin application.

    ``/live`` says that the process answers, ``/ready`` whether it should get traffic (503 before the first generation
    is up and while draining), ``/metrics`` what ``exposition`` gives. With ``token`` everything but the first two asks
    for it as a bearer token; without one only a loopback Host is served, so that no web page reaches it under a name
    of its own.
    """

    async def live(request: Request) -> Response:
        return PlainTextResponse("live\n", headers=_NOT_STORED)

    async def ready(request: Request) -> Response:
        if is_ready():
            return PlainTextResponse("ready\n", headers=_NOT_STORED)
        return PlainTextResponse("not ready\n", status_code=503, headers={"Retry-After": "1", **_NOT_STORED})

    async def metrics(request: Request) -> Response:
        return Response(exposition(), media_type=METRICS_TYPE, headers=_NOT_STORED)

    routes = [Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)]
    return Guard(Starlette(routes=routes), token=token)


class Guard:
    """Lets only the token's holder in, or, without a token, only requests to a loopback Host."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self.app = app
        self._token = None if token is None else token.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        await self.app(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if request.scope["path"] in _OPEN_PATHS and request.method in ("GET", "HEAD"):
            return None
        if self._token is None:
            hosts = request.headers.getlist("host")
            if len(hosts) == 1 and is_loopback_host(hosts[0]):
                return None
            return PlainTextResponse("only for a loopback Host while no token is set\n", status_code=403)
        values = request.headers.getlist("authorization")
        scheme, _, given = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return None
        return PlainTextResponse("a token is required\n", status_code=401, headers={"WWW-Authenticate": "Bearer"})


def is_loopback_host(value: str) -> bool:
    """Whether a Host field names this machine by its loopback address or as localhost."""
    try:
        host = parse_authority(value.encode("latin-1")).host
    except BadRequest:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
