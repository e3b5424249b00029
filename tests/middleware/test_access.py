from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Forbidden
from gateway.middleware.access import AccessMiddleware
from tests.middleware.auth_support import inside, request
from tests.support.messages import answering, call, http_scope

pytestmark = pytest.mark.anyio

APP = answering(200)


@pytest.mark.parametrize(
    ("allow", "deny", "address", "admitted"),
    [
        (None, [], "203.0.113.9", True),
        (["10.0.0.0/8"], [], "10.1.2.3", True),
        (["10.0.0.0/8"], [], "11.0.0.1", False),
        (["10.0.0.0/8"], ["10.6.6.0/24"], "10.6.6.1", False),
        (["10.0.0.0/8"], ["10.6.6.0/24"], "10.6.7.1", True),
        (None, ["10.6.6.0/24"], "10.6.6.255", False),
        (None, ["10.6.6.0/24"], "192.0.2.1", True),
        (["10.0.0.0/8"], [], "::ffff:10.1.2.3", True),
        (None, ["10.0.0.0/8"], "::ffff:10.1.2.3", False),
        (["::ffff:10.0.0.0/104"], [], "10.1.2.3", True),
        (["2001:db8::/32"], [], "2001:db8::1", True),
        (["2001:db8::/32"], [], "2001:db9::1", False),
        (["::/0"], [], "10.1.2.3", False),
        (["0.0.0.0/0"], [], "2001:db8::1", False),
        (["192.0.2.1"], [], "192.0.2.1", True),
        (["192.0.2.1"], [], "192.0.2.2", False),
        (["unix"], [], "unix", True),
        (["0.0.0.0/0", "::/0"], [], "unix", False),
        (None, ["unix"], "unix", False),
        (["0.0.0.0/0"], [], "", False),
        (None, [], "", False),
        (["0.0.0.0/0"], [], "no address", False),
    ],
)
async def test_deny_wins_over_allow_and_absence_is_everyone(
    allow: list[str] | None, deny: list[str], address: str, admitted: bool
) -> None:
    middleware = AccessMiddleware(APP, allow=allow, deny=deny)
    scope = request()
    inside(scope, address)
    if admitted:
        assert (await call(middleware, scope)).status == 200
    else:
        with pytest.raises(Forbidden):
            await call(middleware, scope)


async def test_the_clients_own_word_about_its_address_does_not_count() -> None:
    middleware = AccessMiddleware(APP, allow=["10.0.0.0/8"])
    scope = http_scope(headers=[(b"host", b"h"), (b"x-forwarded-for", b"10.0.0.1")], client="203.0.113.1")
    inside(scope, "203.0.113.1")
    with pytest.raises(Forbidden):
        await call(middleware, scope)


async def test_alone_it_answers_itself_by_the_address_of_the_connection() -> None:
    middleware = AccessMiddleware(APP, allow=["192.0.2.0/24"])
    assert (await call(middleware, http_scope(client="192.0.2.1"))).status == 200
    assert (await call(middleware, http_scope(client="198.51.100.1"))).status == 403


async def test_websockets_are_judged_too_and_lifespans_pass() -> None:
    middleware = AccessMiddleware(APP, deny=["0.0.0.0/0"])
    refused = await call(middleware, {**http_scope(), "type": "websocket"})
    assert refused.messages == [{"type": "websocket.close"}]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    refused = await call(middleware, {**http_scope(), "type": "websocket", "extensions": extensions})
    assert [message["type"] for message in refused.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert refused.messages[0]["status"] == 403
    assert (await call(middleware, {"type": "lifespan"})).status == 200


@pytest.mark.parametrize("network", ["10.0.0.0/33", "nonsense", "10.0.0.300"])
def test_what_is_no_network_is_an_error(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|address"):
        AccessMiddleware(APP, allow=[network])
