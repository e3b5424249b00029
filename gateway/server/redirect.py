"""The plain HTTP listener beside a TLS one: everything moves to https."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import Receive, Scope, Send

from gateway.errors import BadRequest
from gateway.exchange import WHOLE_FOLLOWS
from gateway.http.fields import get_all
from gateway.http.problem import problem_response

_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class RedirectToHttps:
    """Answers every request with 308 to the same target on https; ``port`` is where https is public, 443 by default.

    A request without one well-formed Host is 400: there is no place to send it to.
    """

    def __init__(self, port: int = 443) -> None:
        self._port = b"" if port == 443 else b":%d" % port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            return
        hosts = get_all(scope["headers"], b"host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or not _is_address(match[1]):
            status, fields, body = problem_response(BadRequest("no usable Host"), "", None)
        else:
            target: bytes = scope["extensions"]["gateway.target"]
            location = b"https://%b%b%b" % (match[1], self._port, b"/" if target == b"*" else target)
            status, fields, body = 308, [(b"location", location), (b"content-length", b"0")], b""
        await send({"type": "http.response.start", "status": status, "headers": fields, WHOLE_FOLLOWS: True})
        await send({"type": "http.response.body", "body": body})


def _is_address(host: bytes) -> bool:
    if not host.startswith(b"["):
        return True
    try:
        ipaddress.IPv6Address(host[1:-1].decode("ascii"))
    except ValueError:
        return False
    return True
