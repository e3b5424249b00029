"""The gateway inside other applications, and other people's middleware inside the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.app import Gateway
from tests.support.gateway import make_gateway, proxying, request, serving
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, chunked, respond, response

pytestmark = pytest.mark.anyio


async def own_page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("own")


def in_starlette(gateway: Gateway) -> ASGIApp:
    return Starlette(routes=[Route("/own", own_page), Mount("/api", gateway)])


def in_starlette_with_lifespan(gateway: Gateway) -> ASGIApp:
    return Starlette(routes=[Route("/own", own_page), Mount("/api", gateway)], lifespan=gateway.lifespan)


def in_fastapi(gateway: Gateway) -> ASGIApp:
    parent = FastAPI()
    parent.add_api_route("/own", own_page)
    parent.mount("/api", gateway)
    return parent


def in_fastapi_with_its_own_lifespan(gateway: Gateway) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.lifespan():
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.add_api_route("/own", own_page)
    parent.mount("/api", gateway)
    return parent


def in_a_mount_inside_a_mount(gateway: Gateway) -> ASGIApp:
    inner = Starlette(routes=[Mount("/api", gateway)])
    return Starlette(routes=[Route("/own", own_page), Mount("/", inner)])


PARENTS = [
    (in_starlette, False),
    (in_starlette_with_lifespan, True),
    (in_fastapi, False),
    (in_fastapi_with_its_own_lifespan, True),
    (in_a_mount_inside_a_mount, False),
]


async def echo(connection: ScriptedConnection) -> None:
    while True:
        seen = await connection.read_request()
        fields = [(b"Transfer-Encoding", b"chunked"), (b"X-Target", seen.target)]
        await connection.send(response(200, fields, length=False), chunked(seen.body or b"ok"))


@pytest.mark.parametrize(("parent", "lifespan"), PARENTS, ids=lambda value: getattr(value, "__name__", ""))
async def test_it_works_mounted(server: str, parent: Callable[[Gateway], ASGIApp], lifespan: bool) -> None:
    async with (
        ScriptedUpstream(echo) as origin,
        serving(proxying(origin.url), server=server, mounted=parent, lifespan=lifespan) as served,
    ):
        assert (await served.ask(request("GET", b"/own"))).body == b"own"
        answer = await served.ask(request("POST", b"/api/a%2Fb;c/?q=%20", body=b"body"))
        assert answer.status == 200 and answer.body == b"body"
        assert answer.value(b"x-target") == b"/a%2Fb;c/?q=%20"
        assert (await served.ask(request("GET", b"/api"))).status in (200, 307)
        assert (await served.ask(request("GET", b"/api/"))).value(b"x-target") == b"/"
        assert (await served.ask(request("GET", b"/apix"))).status == 404


async def test_requests_that_come_first_start_it_once(server: str) -> None:
    import asyncio

    async with (
        ScriptedUpstream(echo) as origin,
        serving(proxying(origin.url), server=server, mounted=in_starlette, lifespan=False) as served,
    ):
        answers = await asyncio.gather(*(served.ask(request("GET", b"/api/x")) for _ in range(10)))
        assert {answer.status for answer in answers} == {200}
        assert len(served.exchanges) == 10


async def test_it_can_live_twice(server: str) -> None:
    async with ScriptedUpstream(echo) as origin:
        gateway = make_gateway(proxying(origin.url))
        for _ in range(2):
            async with serving(gateway, server=server) as served:
                assert (await served.ask(request())).status == 200


async def test_starlette_routes_and_middleware_come_before_the_table(server: str) -> None:
    class Stamp:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def stamped(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-stamp", b"1")]
                await send(message)

            await self.app(scope, receive, stamped)

    async with ScriptedUpstream(echo) as origin:
        gateway = make_gateway(proxying(origin.url), routes=[Route("/own", own_page)])
        gateway.add_middleware(Stamp)
        async with serving(gateway, server=server) as served:
            own, proxied = await served.ask(request("GET", b"/own")), await served.ask(request("GET", b"/x"))
            assert own.body == b"own" and proxied.value(b"x-target") == b"/x"
            assert own.values(b"x-stamp") == proxied.values(b"x-stamp") == [b"1"]


async def test_a_parent_with_server_errors_aborts_a_broken_answer(server: str) -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    async with (
        ScriptedUpstream(respond(broken, close=True)) as origin,
        serving(proxying(origin.url), server=server, mounted=in_starlette, lifespan=False) as served,
    ):
        answer = await served.ask(request("GET", b"/api/x"))
        assert answer.status == 200 and not answer.complete


# The ``middleware`` key.


class Tagging:
    """Adds a field to requests and answers; ``stop`` answers by itself."""

    def __init__(self, app: ASGIApp, *, tag: str, stop: bool = False) -> None:
        self.app = app
        self.tag = tag.encode()
        self.stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.stop:
            await PlainTextResponse("stopped")(scope, receive, send)
            return
        headers = [*scope["headers"], (b"x-passed", self.tag)]

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-passed", self.tag)]}
            await send(message)

        await self.app({**scope, "headers": headers}, receive, tagged)


class Failing:
    def __init__(self, app: ASGIApp) -> None:
        pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a secret reason")


def _use(name: str, **args: Any) -> dict[str, Any]:
    return {"use": f"{__name__}:{name}", "args": args}


async def test_the_middleware_of_a_route_runs_in_order(server: str) -> None:
    async with ScriptedUpstream(echo) as origin:
        table = proxying(origin.url, middleware=[_use("Tagging", tag="outer"), _use("Tagging", tag="inner")])
        async with serving(table, server=server) as served:
            answer = await served.ask(request())
            assert answer.values(b"x-passed") == [b"inner", b"outer"]
        assert origin.requests[0].values(b"x-passed") == [b"outer", b"inner"]


async def test_starlettes_own_middleware_runs_in_a_route(server: str) -> None:
    async with ScriptedUpstream(echo) as origin:
        name = "starlette.middleware.trustedhost:TrustedHostMiddleware"
        table = proxying(origin.url, middleware=[{"use": name, "args": {"allowed_hosts": ["good.example"]}}])
        async with serving(table, server=server) as served:
            assert (await served.ask(request(host=b"good.example"))).status == 200
            assert (await served.ask(request(host=b"bad.example"))).status == 400


async def test_middleware_that_answers_by_itself_reaches_no_upstream(server: str) -> None:
    async with ScriptedUpstream(echo) as origin:
        async with serving(
            proxying(origin.url, middleware=[_use("Tagging", tag="x", stop=True)]), server=server
        ) as served:
            assert (await served.ask(request())).body == b"stopped"
        assert origin.connections == []


async def test_middleware_that_fails_is_500_without_its_reason(server: str) -> None:
    async with (
        ScriptedUpstream(echo) as origin,
        serving(proxying(origin.url, middleware=[f"{__name__}:Failing"]), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.status == 500
        assert b"secret" not in answer.body
