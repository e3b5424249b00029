"""What `make run` tells visitors to try does what it says, on the demo's own table."""

from __future__ import annotations

import contextlib
import json
import socket
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from examples import demo
from gateway.config.load import load_config
from tests.support.gateway import Answer, Served, request, serving

ROOT = Path(__file__).parent.parent.parent
ENDPOINTS = {
    "shop": ["asgi:tests.examples.apps:shop_1", "asgi:tests.examples.apps:shop_2"],
    "users": ["asgi:tests.examples.apps:users_1"],
    "stream": ["asgi:tests.examples.apps:stream_1"],
}

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def demo_gateway() -> AsyncIterator[Served]:
    table: dict[str, Any] = tomllib.loads((ROOT / "routes.toml").read_text())
    assert table["upstreams"].keys() == ENDPOINTS.keys()
    for name, endpoints in ENDPOINTS.items():
        table["upstreams"][name]["endpoints"] = endpoints
    async with serving(table) as served:
        yield served


async def ask(served: Served, target: str, *fields: tuple[bytes, bytes], method: str = "GET") -> Answer:
    return await served.ask(request(method, target.encode(), fields, host=b"127.0.0.1:8080"))


async def test_routing() -> None:
    async with demo_gateway() as served:
        assert (await ask(served, "/")).body.startswith(b"The gateway runs.")
        assert (await ask(served, "/nowhere")).status == 404


async def test_balancing() -> None:
    async with demo_gateway() as served:
        replicas = [json.loads((await ask(served, "/shop/whoami")).body)["replica"] for _ in range(4)]
        assert sorted(replicas) == ["shop-1", "shop-1", "shop-2", "shop-2"]


async def test_caching() -> None:
    async with demo_gateway() as served:
        first = await ask(served, "/shop/products/1")
        second = await ask(served, "/shop/products/1")
        assert first.body == second.body
        assert b"hit" not in (first.value(b"cache-status") or b"")
        assert b"hit" in (second.value(b"cache-status") or b"")
        assert second.value(b"age") is not None


async def test_compression() -> None:
    async with demo_gateway() as served:
        answer = await ask(served, "/shop/products", (b"Accept-Encoding", b"gzip"))
        assert answer.value(b"content-encoding") == b"gzip"


async def test_rewriting() -> None:
    async with demo_gateway() as served:
        answer = await ask(served, "/users/login")
        assert answer.status == 303
        assert answer.value(b"location") == b"http://127.0.0.1:8080/users/me"
        assert b"Path=/users" in (answer.value(b"set-cookie") or b"")
        assert answer.value(b"x-powered-by") is None


async def test_headers() -> None:
    async with demo_gateway() as served:
        seen = dict(json.loads((await ask(served, "/users/headers")).body))
        assert seen["x-request-route"] == "users"
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert "via" in seen


async def test_streaming() -> None:
    async with demo_gateway() as served, served.client() as client:
        client.write(request("GET", b"/stream/events?count=2"))
        head = await client.final_head()
        assert head.value(b"content-type") == b"text/event-stream; charset=utf-8"
        assert await client.chunk() == b"id: 1\ndata: event 1 from stream\n\n"
        client.leave()


async def test_uploading() -> None:
    async with demo_gateway() as served:
        answer = await served.ask(request("PUT", b"/stream/upload", body=bytes(300_000)))
        assert json.loads(answer.body)["bytes"] == 300_000


async def test_redirecting() -> None:
    async with demo_gateway() as served:
        answer = await ask(served, "/store/products/1?x=1")
        assert (answer.status, answer.value(b"location")) == (308, b"/shop/products/1?x=1")


async def test_the_page_for_browsers() -> None:
    async with demo_gateway() as served:
        assert b"<h1>Live through the gateway</h1>" in (await ask(served, "/stream/")).body


def test_every_service_of_the_table_is_started() -> None:
    config = load_config(ROOT / "routes.toml")
    ports = {endpoint.port for upstream in config.upstreams.values() for endpoint in upstream.endpoints}
    assert ports == demo.SERVICES.keys()


@pytest.mark.parametrize(
    "bind, expected",
    [
        ('"127.0.0.1:8080"', ("127.0.0.1", 8080)),
        ('["unix:/run/x.sock", "0.0.0.0:80"]', ("127.0.0.1", 80)),
        ('"localhost:81"', ("localhost", 81)),
    ],
)
def test_the_address_that_visitors_are_told(tmp_path: Path, bind: str, expected: tuple[str, int]) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(f'[server]\nbind = {bind}\n[[routes]]\npath = "/"\nrespond = {{}}\n')
    assert demo.gateway_address(str(path)) == expected


def test_a_gateway_without_a_tcp_address_is_no_demo(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text('[server]\nbind = "unix:/run/x.sock"\n[[routes]]\npath = "/"\nrespond = {}\n')
    with pytest.raises(demo.StartFailed, match="binds no TCP address"):
        demo.gateway_address(str(path))


def test_a_table_that_is_not_valid_is_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("[servr]\n")
    monkeypatch.setattr("sys.argv", ["demo", str(path)])
    assert demo.main() == 1
    assert capsys.readouterr().err == f'{path}:1:1: servr: unknown key (did you mean "server"?)\n'


def test_a_busy_port_is_a_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo, "SERVICES", {port: ["examples.shop"]})
        monkeypatch.setattr("sys.argv", ["demo"])
        assert demo.main() == 1
    assert f"port {port} is in use already" in capsys.readouterr().err
