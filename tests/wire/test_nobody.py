"""A client that left before anybody saw who it was is nobody: no rule about who may ask takes it for another."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from tests.support.gateway import make_gateway, proxying, request, serving
from tests.support.messages import http_scope
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

FORGED = [(b"host", b"example.com"), (b"x-forwarded-for", b"10.0.0.1")]


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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nobody_is_not_taken_for_a_peer_on_a_unix_socket() -> None:
    """As an application that is served on both a socket and a port sees them."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        pass

    def scope(server: tuple[str, int | None]) -> dict[str, Any]:
        return {**http_scope(headers=FORGED), "client": None, "server": server}

    async with ScriptedUpstream(respond(response())) as upstream:
        gateway = make_gateway(proxying(upstream.url, server={"trusted_proxies": ["unix"]}, allow=["10.0.0.0/8"]))
        async with gateway.lifespan():
            await gateway(scope(("127.0.0.1", 80)), receive, send)
            assert len(upstream.requests) == 0
            for _ in range(3):
                await gateway(scope(("/run/gateway.sock", None)), receive, send)
            assert len(upstream.requests) == 3
            await gateway(scope(("127.0.0.1", 80)), receive, send)
            assert len(upstream.requests) == 3
