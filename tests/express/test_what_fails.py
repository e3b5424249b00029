"""Failures inside the gateway while an exchange is on the short way: answered once, recorded once, nothing kept."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.exchange import Exchange, Recorder
from gateway.express.proxied import ProxiedLane
from gateway.http.cookies import CookieRewrite
from tests.express.support import Ways, warm
from tests.support.gateway import RecordingRuntime, make_gateway, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

OK = response(200, body=b"hello")
FOR_EVER = response(200, [(b"Cache-Control", b"max-age=999999999")], b"hello")


class FailingRuntime(RecordingRuntime):
    """A runtime with a recorder that fails."""

    @property
    def recorders(self) -> tuple[Recorder, ...]:
        return (*super().recorders, _fail)


def _fail(exchange: Exchange) -> None:
    raise ValueError("this recorder always fails")


@pytest.mark.parametrize("route", [{}, {"cache": True}], ids=["proxied", "stored"])
async def test_a_recorder_that_fails_costs_no_client_its_connection(route: dict[str, Any], server: str) -> None:
    async with ScriptedUpstream(respond(FOR_EVER)) as upstream:
        gateway = make_gateway(proxying(upstream.url, **route))
        gateway.runtime = FailingRuntime(gateway.config)
        async with serving(gateway, server=server) as served, served.client() as client:
            ways = Ways(served)
            for _ in range(3):
                client.write(request())
                answer = await client.answer()
                assert (answer.status, answer.body) == (200, b"hello")
            # Pipelined: an answer that nobody asked for would be taken for that of the next request.
            client.write(request() * 3)
            assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]
            assert ways.short
            assert len(await served.ended(6)) == 6


async def test_a_rule_that_fails_is_a_500_recorded_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: CookieRewrite, value: bytes, prefix: bytes = b"") -> bytes:
        raise ValueError("this rule always fails")

    monkeypatch.setattr(CookieRewrite, "apply", broken)
    cookie = response(200, [(b"Set-Cookie", b"a=1")], b"hello")
    async with ScriptedUpstream(respond(cookie)) as upstream, serving(proxying(upstream.url), server=server) as served:
        refused: list[Any] = []
        if served.connections is not None:
            served.connections.on_refused = refused.append
        for _ in range(2):
            assert (await served.ask(request())).status == 500
        exchanges = await served.ended(2)
        assert [(exchange.status, type(exchange.error).__name__) for exchange in exchanges] == [
            (500, "InternalError"),
            (500, "InternalError"),
        ]
        assert refused == []


async def test_a_head_that_cannot_be_written_is_for_the_layers_to_refuse(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*args: Any) -> bytes:
        raise BadRequest("control bytes in the target or in a field")

    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url), server=server) as (served, _, client),
    ):
        monkeypatch.setattr("gateway.express.proxied.request_head", refusing)
        monkeypatch.setattr("gateway.upstream.http1.request_head", refusing)
        client.write(request(fields=[(b"X-New", b"1")]))
        assert (await client.answer()).status == 400
        assert (await served.ended(2))[1].status == 400
        await served.at_rest()


async def test_layers_that_fail_before_the_upstream_free_what_was_begun(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        serving(proxying(upstream.url), server=server) as served,
    ):

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("this layer always fails")

        served.gateway.generation.routes["all"].unguarded = broken
        # No connection idles yet: begun on the short way, it has to go on through the layers.
        assert (await served.ask(request())).status == 500
        (exchange,) = await served.ended(1)
        assert exchange.status == 500
        await served.at_rest()


async def test_what_two_routes_add_does_not_mix(server: str) -> None:
    config = {
        "upstreams": {"origin": {"endpoints": []}},
        "routes": [
            {
                "name": name,
                "path": f"/{name}/*",
                "upstream": "origin",
                "host_header": "upstream",
                "request_headers": {"set": {"X-Key": name}},
            }
            for name in ("one", "other")
        ],
    }
    async with ScriptedUpstream(respond(OK)) as upstream:
        config["upstreams"]["origin"]["endpoints"] = [upstream.url]  # type: ignore[index]
        async with serving(config, server=server) as served, served.client() as client:
            ways = Ways(served)
            for target in (b"/one/", b"/one/", b"/other/", b"/one/", b"/other/"):
                client.write(request(target=target))
                assert (await client.answer()).status == 200
                (key,) = upstream.requests[-1].values(b"x-key")
                assert b"/%b/" % key == target
            assert ways.short


async def test_a_target_above_the_limit_is_refused_whoever_serves(server: str) -> None:
    config = proxying("http://127.0.0.1:9", server={"limits": {"max_target_bytes": "100B"}})
    async with serving(config, server=server) as served:
        if server == "gateway":
            # Refused before there is an exchange.
            return
        assert (await served.ask(request(target=b"/" + b"a" * 200))).status == 414
        await served.at_rest()


async def test_a_failure_while_an_answer_is_put_together_leaves_nothing_in_use(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ProxiedLane, begun: object) -> None:
        raise ValueError("this always fails")

    table: dict[str, Any] = {"upstream": {"sticky": {"cookie": "at"}}, "server": {"shutdown_timeout": "1s"}}
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, **table), server=server) as (served, _, client),
    ):
        monkeypatch.setattr(ProxiedLane, "_stick", broken)
        client.write(request())
        assert (await client.answer()).status == 200
        await served.at_rest()
        assert len(await served.ended(2)) == 2
