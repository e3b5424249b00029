"""Configuration becomes objects: what a route is made of, in which order, and what a successor keeps."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.generation import Generation
from gateway.runtime import Runtime
from tests.support.messages import call, http_scope

pytestmark = pytest.mark.anyio

BASE = {"server": {"access_log": "off"}}


class Line:
    """Notes that it was passed."""

    passed: ClassVar[list[str]] = []

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self.app = app
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        Line.passed.append(self.name)
        await self.app(scope, receive, send)


async def origin(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    text = b"compressible " * 500
    fields = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(text)),
        (b"cache-control", b"max-age=60"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": text})


def line(name: str) -> dict[str, Any]:
    return {"use": f"{__name__}:Line", "args": {"name": name}}


def route(**keys: Any) -> dict[str, Any]:
    return {**BASE, "routes": [{"name": "all", "path": "/*", "upstream": f"asgi:{__name__}:origin", **keys}]}


class Bench:
    """A runtime and the generation that is current."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.config = load_config(table)
        self.runtime = Runtime(self.config)
        self.current: Generation | None = None

    async def __aenter__(self) -> Bench:
        await self.runtime.start()
        await self.replace(self.config)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self.current is not None
        await self.current.aclose(None)
        await self.runtime.aclose()

    async def replace(self, config: Any) -> Generation:
        config = load_config(config) if isinstance(config, dict) else config
        new = Generation(config, self.runtime, self.current)
        await new.start()
        if self.current is not None:
            await self.current.aclose(new)
        self.current = new
        return new

    async def ask(self, target: bytes = b"/", *fields: tuple[bytes, bytes], method: str = "GET") -> Any:
        assert self.current is not None
        return await call(self.current.app, http_scope(method, target, [(b"host", b"example.com"), *fields]))


async def test_the_middleware_of_a_route_runs_in_order() -> None:
    Line.passed.clear()
    async with Bench(route(middleware=[line("one"), line("two")])) as bench:
        assert (await bench.ask()).status == 200
        assert Line.passed == ["one", "two"]


async def test_access_is_judged_before_the_middleware_of_the_user() -> None:
    Line.passed.clear()
    async with Bench(route(middleware=[line("one")], deny=["192.0.2.0/24"])) as bench:
        assert (await bench.ask()).status == 403
        assert Line.passed == []


async def test_a_cache_hit_passes_the_users_middleware_and_comes_coded() -> None:
    Line.passed.clear()
    async with Bench(route(middleware=[line("one")], cache=True)) as bench:
        for _ in range(2):
            sent = await bench.ask(b"/x", (b"accept-encoding", b"gzip"))
            assert sent.values(b"content-encoding") == [b"gzip"]
        assert Line.passed == ["one", "one"]
        assert b"hit" in b"".join(sent.values(b"cache-status"))


async def test_a_hostile_request_ends_before_any_route() -> None:
    Line.passed.clear()
    async with Bench(route(middleware=[line("one")])) as bench:
        assert (await bench.ask(b"/a/../b")).status == 400
        assert Line.passed == []


async def test_response_rules_apply_to_every_answer_of_the_route() -> None:
    rules = {"response_headers": {"set": {"X-Set": "1"}}, "security_headers": True}
    async with Bench(route(**rules, deny=["192.0.2.0/24"])) as bench:
        sent = await bench.ask()
        assert sent.status == 403 and sent.values(b"x-set") == [b"1"]
        assert sent.values(b"x-content-type-options") == [b"nosniff"]


async def test_unchanged_routes_and_upstreams_are_kept_and_changed_ones_are_not() -> None:
    table = route()
    table["routes"].append({"name": "other", "path": "/other", "respond": {"body": "one"}})
    async with Bench(table) as bench:
        before = bench.current
        assert before is not None
        table["routes"][1]["respond"] = {"body": "two"}
        after = await bench.replace(table)
        assert after.routes["all"] is before.routes["all"]
        assert after.routes["other"] is not before.routes["other"]
        assert after.upstreams == before.upstreams
        assert (await bench.ask(b"/other")).body == b"two"
        assert (await bench.ask(b"/")).status == 200


async def test_a_change_of_the_server_makes_every_route_anew() -> None:
    async with Bench(route()) as bench:
        before = bench.current
        assert before is not None
        after = await bench.replace({**route(), "server": {"access_log": "off", "via": "other"}})
        assert after.routes["all"] is not before.routes["all"]
        assert after.upstreams == before.upstreams


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"middleware": ["no.such.module:Thing"]}, "no.such.module:Thing"),
        ({"middleware": [f"{__name__}:Nothing"]}, "Nothing"),
        ({"middleware": [f"{__name__}:Line"]}, "name"),
        ({"upstream": "asgi:no.such.module:app"}, "no.such.module"),
    ],
)
async def test_what_cannot_be_made_is_a_problem_of_the_configuration(keys: dict[str, Any], named: str) -> None:
    runtime = Runtime(load_config(route()))
    await runtime.start()
    try:
        with pytest.raises(ConfigError, match=named):
            Generation(load_config(route(**keys)), runtime, None)
    finally:
        await runtime.aclose()


async def test_websockets_are_forbidden_where_the_route_says_so() -> None:
    async with Bench(route(websocket=False)) as bench:
        assert bench.current is not None
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = http_scope("GET", b"/", extensions={"websocket.http.response": {}})
        del scope["method"]
        await bench.current.app({**scope, "type": "websocket", "scheme": "ws", "subprotocols": []}, receive, send)
        assert sent[0]["type"] == "websocket.http.response.start" and sent[0]["status"] == 403
