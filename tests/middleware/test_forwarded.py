"""Client identity as a middleware."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.middleware.forwarded import IDENTITY_KEY, ClientIdentity, ForwardedMiddleware
from tests.support.messages import call, http_scope

pytestmark = pytest.mark.anyio

Field = tuple[bytes, bytes]
CLAIMS = [(b"host", b"a"), (b"x-forwarded-for", b"192.0.2.9"), (b"x-forwarded-proto", b"https"), (b"x_real_ip", b"1")]


async def seen_by_the_service(headers: list[Field], client: Any, kind: str = "http", **options: Any) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scheme = "ws" if kind == "websocket" else "http"
    scope = {**http_scope(headers=headers, scheme=scheme), "type": kind, "client": client}
    await call(ForwardedMiddleware(app, **options), scope)
    return seen[0]


async def test_a_trusted_proxys_word_counts() -> None:
    scope = await seen_by_the_service(CLAIMS, ("10.0.0.1", 5), trusted_proxies=["10.0.0.0/8"])
    assert scope["client"] == ("192.0.2.9", 0)
    assert scope["scheme"] == "https"
    assert dict(scope["headers"]) == {
        b"host": b"a",
        b"x-forwarded-for": b"192.0.2.9, 10.0.0.1",
        b"x-forwarded-proto": b"https",
        b"x-forwarded-host": b"a",
        b"x-forwarded-port": b"443",
        b"x-real-ip": b"192.0.2.9",
        b"forwarded": b"for=192.0.2.9;host=a;proto=https, for=10.0.0.1",
    }
    assert scope[IDENTITY_KEY].chain == ("192.0.2.9",)


async def test_nobody_elses_does() -> None:
    scope = await seen_by_the_service(CLAIMS, ("203.0.113.7", 5), trusted_proxies=["10.0.0.0/8"])
    assert scope["client"] == ("203.0.113.7", 5)
    assert scope["scheme"] == "http"
    assert dict(scope["headers"])[b"x-forwarded-for"] == b"203.0.113.7"
    assert b"x_real_ip" not in dict(scope["headers"])


async def test_a_websocket_keeps_a_scheme_of_its_own() -> None:
    scope = await seen_by_the_service(CLAIMS, ("10.0.0.1", 5), "websocket", trusted_proxies=["10.0.0.1"])
    assert scope["scheme"] == "wss"


async def test_a_unix_socket_has_no_address() -> None:
    scope = await seen_by_the_service([(b"host", b"a")], None)
    assert scope["client"] is None
    assert b"x-forwarded-for" not in dict(scope["headers"])
    scope = await seen_by_the_service(CLAIMS, None, trusted_proxies=["unix"])
    assert scope["client"] == ("192.0.2.9", 0)


@pytest.mark.parametrize(("client", "kept"), [("10.0.0.1", True), ("203.0.113.7", False)])
async def test_a_field_of_its_own_is_dropped_where_it_is_forged(client: str, kept: bool) -> None:
    scope = await seen_by_the_service(
        [(b"cf-connecting-ip", b"192.0.2.9")],
        (client, 5),
        trusted_proxies=["10.0.0.0/8"],
        client_ip_from="header:CF-Connecting-IP",
    )
    assert (b"cf-connecting-ip" in dict(scope["headers"])) is kept
    assert scope["client"][0] == ("192.0.2.9" if kept else client)


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(ForwardedMiddleware(app), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]


def test_the_judge_works_without_the_middleware() -> None:
    judge = ClientIdentity(trusted_proxies=["10.0.0.1"])
    scope = http_scope(headers=CLAIMS, client="10.0.0.1")
    identity = judge.identify(scope)
    assert identity.client == "192.0.2.9"
    assert judge.admitted(scope, identity) == [(b"host", b"a")]
