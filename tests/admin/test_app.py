from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.admin.app import METRICS_TYPE, create_admin, is_loopback_host
from gateway.app import Gateway
from tests.support.messages import Sent, call, http_scope

pytestmark = pytest.mark.anyio

Fields = Sequence[tuple[bytes, bytes]]


class Admin:
    """An admin application and what it reads."""

    def __init__(self, token: str | None = None) -> None:
        self.is_ready = False
        self.app = create_admin(is_ready=lambda: self.is_ready, exposition=lambda: b"gateway_x 1\n", token=token)

    async def get(
        self, path: str, *fields: tuple[bytes, bytes], host: bytes = b"localhost:9180", method: str = "GET"
    ) -> Sent:
        return await call(self.app, http_scope(method, path.encode(), [(b"host", host), *fields]))


async def test_live_says_that_the_process_answers_and_ready_that_it_wants_requests() -> None:
    admin = Admin()
    assert (await admin.get("/live")).status == 200
    assert (await admin.get("/ready")).status == 503
    assert (await admin.get("/ready")).values(b"retry-after") == [b"1"]
    admin.is_ready = True
    assert (await admin.get("/ready")).status == 200
    admin.is_ready = False
    assert (await admin.get("/ready")).status == 503
    assert (await admin.get("/live")).status == 200


@pytest.mark.parametrize("token", [None, "t0ken"])
@pytest.mark.parametrize("host", [b"localhost", b"10.0.0.7:9180", b"evil.example", b"\xff"])
@pytest.mark.parametrize("path", ["/live", "/ready"])
async def test_probes_need_neither_token_nor_host(token: str | None, host: bytes, path: str) -> None:
    admin = Admin(token)
    admin.is_ready = True
    assert (await admin.get(path, host=host)).status == 200
    assert (await admin.get(path, host=host, method="HEAD")).status == 200


async def test_metrics_are_the_exposition_and_nobody_stores_them() -> None:
    sent = await Admin().get("/metrics")
    assert (sent.status, sent.body) == (200, b"gateway_x 1\n")
    assert sent.values(b"content-type") == [METRICS_TYPE.encode()]
    assert sent.values(b"cache-control") == [b"no-store"]


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:9180", True),
        ("localhost.", True),
        ("127.0.0.1", True),
        ("127.0.0.1:9180", True),
        ("127.8.9.10", True),
        ("[::1]", True),
        ("[::1]:9180", True),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("[::]", False),
        ("::1", False),
        ("localhost:99999", False),
        ("localhost, evil.example", False),
        (" localhost", False),
        ("loc\xe4lhost", False),
    ],
)
async def test_without_a_token_only_a_loopback_host_is_served(host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) is is_loopback
    sent = await Admin().get("/metrics", host=host.encode("latin-1"))
    assert sent.status == (200 if is_loopback else 403)


async def test_without_a_host_or_with_two_nothing_is_served() -> None:
    admin = Admin()
    for hosts in ([], [(b"host", b"localhost"), (b"host", b"evil.example")]):
        assert (await call(admin.app, http_scope(target=b"/metrics", headers=hosts))).status == 403


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Bearer t0ke")],
        [(b"authorization", b"Bearer t0ken2")],
        [(b"authorization", b"Bearer T0KEN")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"t0ken")],
        [(b"authorization", b"Basic t0ken")],
        [(b"authorization", b"Bearer \xff")],
        [(b"authorization", b"Bearer t0ken"), (b"authorization", b"Bearer wrong")],
        [(b"x-token", b"t0ken")],
    ],
)
async def test_with_a_token_everything_else_asks_for_it(fields: Fields) -> None:
    admin = Admin("t0ken")
    for path in ("/metrics", "/", "/unknown", "/live/", "//live", "/LIVE", "/ready/../metrics"):
        sent = await admin.get(path, *fields)
        assert sent.status == 401, path
        assert sent.values(b"www-authenticate") == [b"Bearer"]


@pytest.mark.parametrize("value", [b"Bearer t0ken", b"bearer t0ken", b"Bearer  t0ken "])
async def test_the_token_opens_metrics_whatever_the_host(value: bytes) -> None:
    sent = await Admin("t0ken").get("/metrics", (b"authorization", value), host=b"metrics.example")
    assert sent.status == 200


async def test_a_token_may_have_any_letters() -> None:
    assert (await Admin("grün").get("/metrics", (b"authorization", "Bearer grün".encode()))).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_there_is_nothing_to_do_but_to_read(method: str) -> None:
    assert (await Admin().get("/metrics", method=method)).status == 405
    assert (await Admin().get("/live", method=method)).status == 405
    assert (await Admin("t").get("/live", method=method)).status == 401


async def test_unknown_paths_are_404_and_websockets_are_refused() -> None:
    assert (await Admin().get("/state")).status == 404
    sent = await call(Admin().app, {**http_scope(target=b"/live"), "type": "websocket"})
    assert sent.messages == [{"type": "websocket.close"}]


async def test_the_gateway_is_ready_from_its_first_generation_to_its_drain() -> None:
    gateway = Gateway.from_config({"server": {"access_log": "off"}, "routes": [{"path": "/", "respond": {}}]})
    admin = Admin()
    admin.app = create_admin(is_ready=lambda: gateway.live.is_up, exposition=gateway.runtime.metrics.exposition)
    assert (await admin.get("/ready")).status == 503
    async with gateway.lifespan():
        assert (await admin.get("/ready")).status == 200
        await call(gateway, http_scope(headers=[(b"host", b"h")]))
        exposed = (await admin.get("/metrics")).body
        assert b'gateway_requests_total{method="GET",route="' in exposed
        assert b"gateway_in_flight 0.0" in exposed
    assert (await admin.get("/ready")).status == 503
