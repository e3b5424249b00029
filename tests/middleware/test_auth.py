from __future__ import annotations

import pytest
from starlette.types import Scope

from gateway.errors import Unauthorized
from gateway.middleware.auth import NAMELESS, AuthMiddleware, Elsewhere, Identity, single_value
from tests.middleware.auth_support import Reached, inside, request
from tests.support.messages import call

pytestmark = pytest.mark.anyio


class Known:
    """Knows everybody who does not say "nobody"."""

    credential_fields = frozenset([b"authorization"])
    identity_fields = frozenset([b"x-user", b"x-groups"])

    def __init__(self, identity: Identity | Elsewhere) -> None:
        self.identity = identity

    async def authenticate(self, scope: Scope) -> Identity | Elsewhere:
        if (b"authorization", b"nobody") in scope["headers"]:
            raise Unauthorized("nobody", headers=[(b"www-authenticate", b"Test")])
        return self.identity


async def test_forged_identity_fields_never_arrive_even_when_the_gateway_sets_none() -> None:
    reached = Reached()
    middleware = AuthMiddleware(reached, authenticator=Known(Identity("al", ((b"x-user", b"al"),))))
    await call(middleware, request((b"x-user", b"root"), (b"x-groups", b"wheel"), (b"x-user", b"root")))
    assert reached.values(b"x-user") == [b"al"]
    assert reached.values(b"x-groups") == []


async def test_no_spelling_is_left_that_a_cgi_environment_takes_for_the_gateways_field() -> None:
    known = Known(Identity("al", ((b"x_user", b"al"),)))
    known.identity_fields = frozenset([b"x_user"])
    reached = Reached()
    await call(AuthMiddleware(reached, authenticator=known), request((b"x-user", b"root"), (b"x_user", b"root")))
    assert reached.values(b"x_user") == [b"al"]
    assert reached.values(b"x-user") == []


@pytest.mark.parametrize(("forwarded", "expected"), [(False, []), (True, [b"secret"])])
async def test_credentials_go_on_only_where_wanted(forwarded: bool, expected: list[bytes]) -> None:
    reached = Reached()
    middleware = AuthMiddleware(reached, authenticator=Known(Identity("al")), forward_credentials=forwarded)
    await call(middleware, request((b"authorization", b"secret"), (b"accept", b"*/*")))
    assert reached.values(b"authorization") == expected
    assert reached.values(b"accept") == [b"*/*"]


async def test_an_authorization_that_the_gateway_sets_replaces_the_clients() -> None:
    reached = Reached()
    identity = Identity("al", ((b"authorization", b"inner"),))
    await call(AuthMiddleware(reached, authenticator=Known(identity)), request((b"authorization", b"outer")))
    assert reached.values(b"authorization") == [b"inner"]


async def test_the_scope_of_the_outer_layers_keeps_its_fields() -> None:
    scope = request((b"authorization", b"secret"))
    await call(AuthMiddleware(Reached(), authenticator=Known(Identity("al"))), scope)
    assert (b"authorization", b"secret") in scope["headers"]


@pytest.mark.parametrize(("name", "shown"), [("al", "al"), ("", NAMELESS)])
async def test_whoever_was_let_in_has_a_name(name: str, shown: str) -> None:
    scope = request()
    exchange = inside(scope)
    await call(AuthMiddleware(Reached(), authenticator=Known(Identity(name))), scope)
    assert exchange.user == shown


async def test_nobody_gets_a_challenge_and_does_not_get_in() -> None:
    reached = Reached()
    middleware = AuthMiddleware(reached, authenticator=Known(Identity("al")))
    sent = await call(middleware, request((b"authorization", b"nobody")))
    assert sent.status == 401
    assert sent.values(b"www-authenticate") == [b"Test"]
    assert reached.requests == []
    scope = request((b"authorization", b"nobody"))
    exchange = inside(scope)
    with pytest.raises(Unauthorized):
        await call(middleware, scope)
    assert exchange.user == ""


async def test_an_answer_from_elsewhere_is_the_clients() -> None:
    reached = Reached()
    elsewhere = Elsewhere(302, [(b"location", b"https://login.example/")])
    sent = await call(AuthMiddleware(reached, authenticator=Known(elsewhere)), request())
    assert (sent.status, sent.values(b"location"), sent.complete) == (302, [b"https://login.example/"], True)
    assert reached.requests == []


async def test_websockets_are_asked_too_and_lifespans_pass() -> None:
    middleware = AuthMiddleware(Reached(), authenticator=Known(Identity("al")))
    sent = await call(middleware, {**request((b"authorization", b"nobody")), "type": "websocket"})
    assert sent.messages == [{"type": "websocket.close"}]
    assert (await call(middleware, {"type": "lifespan", "headers": []})).status == 200


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ([], None),
        ([(b"a", b"1")], b"1"),
        ([(b"a", b"")], b""),
        ([(b"a", b"1"), (b"a", b"2")], None),
        ([(b"a", b"1"), (b"a", b"1")], None),
        ([(b"a", b"1"), (b"a", b"1"), (b"a", b"1")], None),
        ([(b"b", b"1")], None),
    ],
)
def test_of_two_values_none_counts(fields: list[tuple[bytes, bytes]], value: bytes | None) -> None:
    assert single_value(fields, b"a") == value
