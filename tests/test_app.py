"""The application: how it starts, reloads and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import Gateway as PublicGateway
from gateway.app import Gateway, without_root_path
from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from tests.support.gateway import make_gateway, proxying, until
from tests.support.messages import call, http_scope
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio


def fixed(text: str) -> dict[str, Any]:
    return {"server": {"access_log": "off"}, "routes": [{"path": "/*", "respond": {"body": text}}]}


def scope(target: bytes = b"/", **extra: Any) -> dict[str, Any]:
    return http_scope("GET", target, **extra)


def test_it_is_what_the_package_offers() -> None:
    assert PublicGateway is Gateway


async def test_it_takes_a_path_a_config_or_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text('[server]\naccess_log = "off"\n[[routes]]\npath = "/*"\nrespond = { body = "hello" }\n')
    gateways = [Gateway(path), Gateway(str(path)), Gateway(load_config(path)), Gateway.from_config(fixed("hello"))]
    for gateway in gateways:
        async with gateway.lifespan():
            assert (await call(gateway, scope())).body == b"hello"


def test_a_table_that_is_not_valid_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="no upstream"):
        Gateway.from_config({"routes": [{"path": "/*", "upstream": "nobody"}]})


def test_it_works_without_its_lifespan_and_on_several_event_loops() -> None:
    gateway = Gateway.from_config(fixed("hello"))
    for _ in range(3):
        assert asyncio.run(_ask(gateway)) == [b"hello", b"hello"]


def test_what_it_did_on_an_event_loop_that_is_gone_is_in_the_access_log(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = Gateway.from_config({"server": {"access_log": "text"}, "routes": fixed("hello")["routes"]})
    asyncio.run(_ask(gateway))
    asyncio.run(_ask(gateway))

    assert capsys.readouterr().out.count("\n") == 2
    asyncio.run(_ask_and_close(gateway))
    assert capsys.readouterr().out.count("\n") == 4


async def _ask_and_close(gateway: Gateway) -> None:
    await _ask(gateway)
    await gateway.aclose()


async def _ask(gateway: Gateway) -> list[bytes]:
    return [(await call(gateway, scope())).body for _ in range(2)]


async def test_it_starts_once_for_all_who_ask() -> None:
    gateway = make_gateway(fixed("hello"))
    await asyncio.gather(gateway.start(), gateway.start(), *(call(gateway, scope()) for _ in range(5)))
    generation = gateway.generation
    await gateway.start()
    assert gateway.generation is generation
    await gateway.aclose()


async def test_a_start_that_fails_leaves_nothing_behind_and_the_next_one_begins_anew() -> None:
    failing = {"routes": [{"path": "/*", "upstream": "asgi:tests.test_app:moody"}], **{"server": {"access_log": "off"}}}
    gateway = make_gateway(failing)
    Moody.is_well = False
    for _ in range(3):
        with pytest.raises(ConfigError, match="cannot be started"):
            await call(gateway, scope())
        assert not gateway.live.is_up
        assert not gateway.runtime.ticker._sweeps
    Moody.is_well = True
    assert (await call(gateway, scope())).body == b"well"
    await gateway.aclose()
    assert not gateway.runtime.ticker._sweeps


async def test_closing_twice_or_before_the_start_does_nothing() -> None:
    gateway = make_gateway(fixed("hello"))
    await gateway.aclose()
    await gateway.start()
    await gateway.aclose()
    await gateway.aclose()


async def test_a_request_during_the_drain_is_503_with_retry_after() -> None:
    gateway = make_gateway({**fixed("hello"), "routes": [{"path": "/*", "upstream": "asgi:tests.test_app:waiting"}]})
    Waiting.go_on = asyncio.Event()
    running = asyncio.create_task(call(gateway, scope()))
    await until(lambda: gateway.live.in_flight == 1)
    closing = asyncio.create_task(gateway.aclose(30.0))
    await asyncio.sleep(0)
    late = await call(gateway, scope())
    assert late.status == 503
    assert late.values(b"retry-after") and late.values(b"connection") == [b"close"]
    Waiting.go_on.set()
    assert (await running).body == b"waited"
    await closing


async def test_a_reload_takes_a_config_a_path_or_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text('[server]\naccess_log = "off"\n[[routes]]\npath = "/*"\nrespond = { body = "one" }\n')
    gateway = make_gateway(path)
    async with gateway.lifespan():
        assert (await call(gateway, scope())).body == b"one"
        path.write_text(path.read_text().replace("one", "two"))
        await gateway.reload()
        assert (await call(gateway, scope())).body == b"two"
        await gateway.reload(load_config(fixed("three")))
        assert (await call(gateway, scope())).body == b"three"
        await gateway.reload(path)
        assert (await call(gateway, scope())).body == b"two"


@pytest.mark.parametrize("missing", [(), ("root_path",), ("scheme",), ("raw_path", "extensions"), ("state", "server")])
@pytest.mark.parametrize("pair", [tuple, list])
async def test_it_takes_a_scope_as_any_server_makes_it(missing: tuple[str, ...], pair: Callable[..., Any]) -> None:
    async with ScriptedUpstream(respond(response(200, body=b"hello"))) as upstream:
        gateway = make_gateway(proxying(upstream.url))
        async with gateway.lifespan():
            for _ in range(3):
                made = {name: value for name, value in scope(b"/a?b").items() if name not in missing}
                made["headers"] = [pair(field) for field in ((b"host", b"a.example"), (b"accept", b"*/*"))]
                assert (await call(gateway, made)).body == b"hello"
        assert [asked.target for asked in upstream.requests] == [b"/a?b"] * 3
        assert upstream.requests[-1].values(b"x-forwarded-proto") == [b"http"]


@pytest.mark.parametrize(
    ("raw_path", "path", "root_path", "expected"),
    [
        (b"/api/a%2Fb", "/api/a/b", "/api", b"/a%2Fb"),
        (b"/api", "/api", "/api", b"/"),
        (b"/a/p/i/x", "/a/p/i/x", "/a/p/i", b"/x"),
        (b"/caf%C3%A9/x", "/café/x", "/café", b"/x"),
        (None, "/api/a b", "/api", b"/a%20b"),
    ],
)
def test_the_prefix_it_is_mounted_under_is_cut(
    raw_path: bytes | None, path: str, root_path: str, expected: bytes
) -> None:
    before: dict[str, Any] = {"path": path, "root_path": root_path}
    if raw_path is not None:
        before["raw_path"] = raw_path
    after = without_root_path(before)
    assert after["raw_path"] == expected
    assert after["root_path"] == root_path


class Moody:
    is_well = True


async def moody(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        if not Moody.is_well:
            await send({"type": "lifespan.startup.failed", "message": "not well"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"well"})


class Waiting:
    go_on = asyncio.Event()


async def waiting(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await Waiting.go_on.wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"waited"})
