from __future__ import annotations

import asyncio
import base64
from typing import Any

import bcrypt
import pytest
from argon2 import PasswordHasher

from gateway.errors import Overloaded, Unauthorized
from gateway.middleware import auth_basic
from gateway.middleware.auth import Identity
from gateway.middleware.auth_basic import MAX_CREDENTIALS_BYTES, VERDICT_TTL_S, BasicAuthenticator
from tests.middleware.auth_support import Clock, request

pytestmark = pytest.mark.anyio

# The weakest that the algorithms allow: the tests are about who is let in.
BCRYPT = bcrypt.hashpw(b"blau", bcrypt.gensalt(4)).decode()
ARGON2 = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("grün:gelb")
LONG = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
USERS = {"bob": BCRYPT, "ada": ARGON2, "apache": BCRYPT.replace("$2b$", "$2y$"), "long": LONG, "": BCRYPT}


def basic(credentials: str | bytes, scheme: bytes = b"Basic ") -> tuple[bytes, bytes]:
    raw = credentials.encode("utf-8") if isinstance(credentials, str) else credentials
    return (b"authorization", scheme + base64.b64encode(raw))


@pytest.mark.parametrize(
    ("field", "user"),
    [
        (basic("bob:blau"), "bob"),
        (basic("ada:grün:gelb"), "ada"),
        (basic("apache:blau"), "apache"),
        (basic("long:" + "x" * 72), "long"),
        (basic("bob:blau", b"basic "), "bob"),
        (basic("bob:blau", b"BASIC "), "bob"),
        (basic("bob:blau", b"Basic   "), "bob"),
    ],
)
async def test_the_right_password_names_its_user(field: tuple[bytes, bytes], user: str) -> None:
    assert await BasicAuthenticator(USERS).authenticate(request(field)) == Identity(user)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="nothing"),
        pytest.param([basic("bob:rot")], id="wrong password"),
        pytest.param([basic("bob:")], id="empty password"),
        pytest.param([basic("bob:blau ")], id="a space more"),
        pytest.param([basic("bob:Blau")], id="another case"),
        pytest.param([basic("Bob:blau")], id="another case of the name"),
        pytest.param([basic("eve:blau")], id="unknown user with the first user's password"),
        pytest.param([basic("ada:blau")], id="the password of another"),
        pytest.param([basic("bob:" + BCRYPT)], id="the hash itself"),
        pytest.param([basic("bob")], id="no colon"),
        pytest.param([basic("")], id="empty"),
        pytest.param([basic(":")], id="nameless and empty"),
        pytest.param([basic("bob:blau\0")], id="NUL at the end"),
        pytest.param([basic("bob:blau\0more")], id="NUL inside"),
        pytest.param([basic("long:" + "x" * 73)], id="bcrypt would cut it to what is right"),
        pytest.param([basic(b"ada:gr\xfcn:gelb")], id="latin-1"),
        pytest.param([(b"authorization", b"Basic bob:blau")], id="not base64"),
        pytest.param([(b"authorization", b"Basic Ym9iOmJsYXU")], id="without padding"),
        pytest.param([(b"authorization", b"Basic Ym9i Om JsYXU=")], id="base64 with spaces"),
        pytest.param([(b"authorization", b"Basic \xff\xfe")], id="not ASCII"),
        pytest.param([(b"authorization", b"Basic")], id="the scheme alone"),
        pytest.param([(b"authorization", b"Basic ")], id="the scheme and a space"),
        pytest.param([(b"authorization", base64.b64encode(b"bob:blau"))], id="no scheme"),
        pytest.param([basic("bob:blau", b"Bearer ")], id="another scheme"),
        pytest.param([basic("bob:blau", b"Basic\t")], id="a tab for the space"),
        pytest.param([basic("bob:blau"), basic("bob:blau")], id="twice"),
        pytest.param([basic("bob:blau"), basic("eve:x")], id="two users"),
        pytest.param([basic("bob:" + "x" * MAX_CREDENTIALS_BYTES)], id="too long"),
        pytest.param([(b"proxy-authorization", basic("bob:blau")[1])], id="in another field"),
    ],
)
async def test_everything_else_is_401_with_a_challenge(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthorized) as refused:
        await BasicAuthenticator(USERS).authenticate(request(*fields))
    assert refused.value.headers == [(b"www-authenticate", b'Basic realm="gateway", charset="UTF-8"')]


class Counting(BasicAuthenticator):
    """Counts the hashes that it computes."""

    hashes = 0

    def _matches(self, password: str, stored: str) -> bool:
        self.hashes += 1
        return super()._matches(password, stored)


async def test_a_good_verdict_is_remembered_briefly_and_a_bad_one_never() -> None:
    clock = Clock()
    authenticator = Counting(USERS, clock=clock)
    good, bad = request(basic("bob:blau")), request(basic("bob:rot"))
    await authenticator.authenticate(good)
    await authenticator.authenticate(good)
    assert authenticator.hashes == 1
    clock.now += VERDICT_TTL_S + 0.1
    await authenticator.authenticate(good)
    assert authenticator.hashes == 2
    for _ in range(2):
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(bad)
    assert authenticator.hashes == 4


async def test_an_unknown_user_costs_a_hash_like_a_known_one() -> None:
    authenticator = Counting(USERS)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(request(basic("eve:x")))
    assert authenticator.hashes == 1


async def test_requests_that_come_together_share_one_hash_and_one_that_leaves_takes_nothing_away() -> None:
    authenticator = Counting(USERS)
    first = asyncio.create_task(authenticator.authenticate(request(basic("bob:blau"))))
    others = [asyncio.create_task(authenticator.authenticate(request(basic("bob:blau")))) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [Identity("bob")] * 20
    assert first.cancelled()
    assert authenticator.hashes == 1


async def test_passwords_beyond_the_bound_are_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_basic, "MAX_VERIFYING", 2)
    authenticator = BasicAuthenticator(USERS)
    calls: list[Any] = [authenticator.authenticate(request(basic(f"bob:{number}"))) for number in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Unauthorized, Unauthorized, Overloaded]


async def test_verified_credentials_are_not_kept_readable() -> None:
    authenticator = BasicAuthenticator(USERS)
    await authenticator.authenticate(request(basic("bob:blau")))
    kept = repr(list(authenticator._verdicts.items()))
    assert "blau" not in kept and base64.b64encode(b"bob:blau").decode() not in kept


@pytest.mark.parametrize("stored", ["blau", "$apr1$x$y", "{SHA}x", "$2b$short", "$argon2", "$6$x$y", ""])
def test_other_hashes_are_refused_at_the_start(stored: str) -> None:
    with pytest.raises(ValueError, match="'bob' is no argon2 or bcrypt hash"):
        BasicAuthenticator({"bob": stored})


async def test_a_password_is_known_at_once_while_its_verdict_is_remembered() -> None:
    clock = Clock()
    authenticator = BasicAuthenticator(USERS, clock=clock)
    right, wrong = basic("bob:blau"), basic("bob:rot")
    assert authenticator.known([right]) is None
    await authenticator.authenticate(request(right))
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(request(wrong))
    assert authenticator.known([right]) == Identity("bob")
    assert authenticator.known([wrong]) is authenticator.known([right, right]) is authenticator.known([]) is None
    clock.now += VERDICT_TTL_S + 1
    assert authenticator.known([right]) is None
