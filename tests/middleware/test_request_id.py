"""Request ids."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.forwarded import is_request_id
from gateway.middleware.request_id import RequestIdMiddleware, request_ids
from tests.support.messages import Sent, answering, call, http_scope

pytestmark = pytest.mark.anyio

NAME = b"x-request-id"


async def ask(app: RequestIdMiddleware, *given: bytes, client: str = "192.0.2.1") -> Sent:
    return await call(app, http_scope(headers=[(NAME, value) for value in given], client=client))


def test_ids_are_unique_and_well_formed() -> None:
    first, second = request_ids(), request_ids()
    made = [first(), first(), second(), second()]
    assert len(set(made)) == 4
    assert all(is_request_id(value.encode()) for value in made)


@pytest.mark.parametrize(
    ("client", "given", "expected"),
    [
        ("10.0.0.1", [b"outer-1"], b"outer-1"),
        ("192.0.2.1", [b"outer-1"], b"made"),
        ("10.0.0.1", [b"a b"], b"made"),
        ("10.0.0.1", [b"a", b"b"], b"made"),
        ("10.0.0.1", [], b"made"),
    ],
)
async def test_only_a_trusted_proxy_names_a_request(client: str, given: list[bytes], expected: bytes) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(200, [(NAME, b"the service's")])(scope, receive, send)

    middleware = RequestIdMiddleware(app, trusted_proxies=["10.0.0.0/8"], make_id=lambda: "made")
    sent = await ask(middleware, *given, client=client)
    assert sent.values(NAME) == [expected]
    assert [value for name, value in seen[0]["headers"] if name == NAME] == [expected]
    assert seen[0]["state"]["request_id"] == expected.decode()


async def test_the_state_of_the_server_stays_its_own() -> None:
    state: dict[str, object] = {"lifespan": 1}
    await call(RequestIdMiddleware(answering(200)), {**http_scope(), "state": state})
    assert state == {"lifespan": 1}


async def test_inside_the_gateway_the_id_is_the_exchanges() -> None:
    exchange = Exchange("GET", b"/")
    exchange.request_id = "abc"
    scope = {**http_scope(headers=[(NAME, b"x")]), SCOPE_KEY: exchange}
    sent = await call(RequestIdMiddleware(answering(200), header="X-Trace"), scope)
    assert sent.values(b"x-trace") == [b"abc"]


async def test_a_unix_peer_can_be_trusted() -> None:
    middleware = RequestIdMiddleware(answering(200), trusted_proxies=["unix"], make_id=lambda: "made")
    scope = {**http_scope(headers=[(NAME, b"outer")]), "client": None}
    assert (await call(middleware, scope)).values(NAME) == [b"outer"]


async def test_other_scopes_pass() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call(RequestIdMiddleware(app), {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
