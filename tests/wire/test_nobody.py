"""A client that left before anybody saw who it was is nobody: no rule about who may ask takes it for another."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.support.gateway import proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("trusted", [[], ["unix"]], ids=["trusting nobody", "trusting a socket"])
async def test_who_sends_and_resets_gets_past_no_rule(server: str, method: str, trusted: list[str]) -> None:
    rules: dict[str, Any] = {"allow": ["192.0.2.1"]} if trusted else {"deny": ["127.0.0.0/8"]}
    forged = [(b"X-Forwarded-For", b"192.0.2.1")]
    async with ScriptedUpstream(respond(response())) as upstream:
        table = proxying(upstream.url, server={"trusted_proxies": trusted}, **rules)
        async with serving(table, server=server) as served:
            # The event loop stands still meanwhile: what is accepted is a connection that has ended, and its bytes.
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                client.sendall(request(method, fields=forged, body=b"abc" if method == "POST" else None))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for _ in range(3):
                assert (await served.ask(request(fields=forged))).status == 403
            assert not upstream.requests
