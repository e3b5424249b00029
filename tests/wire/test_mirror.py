"""Mirrored requests over real sockets: complete copies, counted, never felt."""

from __future__ import annotations

import pytest

from tests.support.gateway import Served, proxying, request, serving, until
from tests.support.upstream import ScriptedUpstream, refused_port, respond, response

pytestmark = pytest.mark.anyio

OK = response(body=b"ok")


async def test_a_copy_arrives_as_the_request_does(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, ScriptedUpstream(respond(OK)) as shadow:
        table = proxying(origin.url, mirror={"upstream": shadow.url, "share": 1.0})
        async with serving(table, server=server) as served:
            assert (await served.ask(request("POST", b"/a%2Fb?c", body=b"whole"))).body == b"ok"
            copy = (await shadow.connection()).requests
            await until(lambda: len(copy) == 1)
            (sent,) = origin.connections[0].requests
            assert (copy[0].target, copy[0].body, copy[0].fields) == (sent.target, sent.body, sent.fields)
            await until(lambda: b'gateway_mirrored_total{result="answered",route="all"} 1.0' in _metrics(served))


async def test_a_mirror_that_is_gone_is_counted_and_not_felt(server: str) -> None:
    with refused_port() as port:
        async with ScriptedUpstream(respond(OK)) as origin:
            table = proxying(origin.url, mirror={"upstream": f"http://127.0.0.1:{port}", "share": 1.0})
            async with serving(table, server=server) as served:
                assert (await served.ask(request())).status == 200
                await until(lambda: b'gateway_mirrored_total{result="failed",route="all"} 1.0' in _metrics(served))
                (exchange,) = await served.ended(1)
                assert (exchange.outcome, len(exchange.attempts)) == ("done", 1)


def _metrics(served: Served) -> bytes:
    exposition: bytes = served.gateway.runtime.metrics.exposition()
    return exposition
