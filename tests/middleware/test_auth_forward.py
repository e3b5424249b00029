from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import CapacityError, ConnectFailed, Forbidden, Unauthorized, UpstreamTimeout
from gateway.middleware.auth import NAMELESS, AuthMiddleware, Elsewhere, Identity
from gateway.middleware.auth_forward import ForwardAuthenticator
from tests.middleware.auth_support import Answer, Clock, Reached, ScriptedFetch, inside, request
from tests.support.messages import call

pytestmark = pytest.mark.anyio

URL = "http://auth.internal/check"


def asking(answer: Any, **options: Any) -> tuple[ForwardAuthenticator, ScriptedFetch]:
    fetch = ScriptedFetch(answer)
    return ForwardAuthenticator(url=URL, fetch=fetch, **options), fetch


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_2xx_lets_it_pass(status: int) -> None:
    authenticator, fetch = asking(Answer(status))
    assert await authenticator.authenticate(request()) == Identity(NAMELESS)
    assert fetch.asked[0][0] == URL


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(401), Unauthorized),
        (Answer(403), Forbidden),
        (Answer(301, [(b"location", b"/")]), CapacityError),
        (Answer(302), CapacityError),
        (Answer(304), CapacityError),
        (Answer(400), CapacityError),
        (Answer(404), CapacityError),
        (Answer(407), CapacityError),
        (Answer(429), CapacityError),
        (Answer(500), CapacityError),
        (Answer(503), CapacityError),
        (ConnectFailed("refused"), CapacityError),
        (UpstreamTimeout("late"), CapacityError),
    ],
)
async def test_whatever_else_does_not(answer: Any, error: type[Exception]) -> None:
    authenticator, _ = asking(answer, cache_s=60.0)
    for _ in range(2):
        with pytest.raises(error):
            await authenticator.authenticate(request())


async def test_the_challenge_of_the_service_reaches_the_client() -> None:
    authenticator, _ = asking(Answer(401, [(b"www-authenticate", b"Bearer"), (b"set-cookie", b"a=1")]))
    with pytest.raises(Unauthorized) as refused:
        await authenticator.authenticate(request())
    assert refused.value.headers == [(b"www-authenticate", b"Bearer")]


@pytest.mark.parametrize("status", [302, 303, 307])
async def test_the_way_to_a_login_page_is_the_clients_answer(status: int) -> None:
    fields = [(b"location", b"https://login.example/"), (b"set-cookie", b"state=1"), (b"server", b"auth/1")]
    authenticator, fetch = asking(Answer(status, fields), cache_s=60.0)
    expected = Elsewhere(status, [*fields[:2], (b"cache-control", b"no-store")])
    assert await authenticator.authenticate(request()) == expected
    assert await authenticator.authenticate(request()) == expected
    assert len(fetch.asked) == 2, "only a good verdict is remembered"


async def test_the_question_says_what_is_asked_by_whom_and_nothing_that_the_client_claims() -> None:
    authenticator, fetch = asking(Answer(), copy_headers=["X-User", "Authorization"])
    scope = request(
        (b"authorization", b"Bearer x"),
        (b"cookie", b"session=1"),
        (b"x-api-key", b"k"),
        (b"content-length", b"7"),
        (b"transfer-encoding", b"chunked"),
        (b"if-none-match", b'"x"'),
        (b"range", b"bytes=0-1"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"expect", b"100-continue"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-uri", b"/public"),
        (b"x-forwarded-method", b"GET"),
        (b"x-user", b"root"),
        (b"x_user", b"root"),
        (b"accept-encoding", b"gzip"),
        target=b"/a%2Fb?q=%20",
        method="POST",
    )
    exchange = inside(scope, "198.51.100.7")
    exchange.scheme = "https"
    await authenticator.authenticate(scope)
    assert fetch.asked[0][1] == [
        (b"authorization", b"Bearer x"),
        (b"cookie", b"session=1"),
        (b"x-api-key", b"k"),
        (b"x-forwarded-method", b"POST"),
        (b"x-forwarded-uri", b"/a%2Fb?q=%20"),
        (b"x-forwarded-host", b"shop.example"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-for", b"198.51.100.7"),
    ]


async def test_alone_it_takes_client_and_scheme_from_the_server() -> None:
    authenticator, fetch = asking(Answer())
    await authenticator.authenticate(request())
    assert fetch.values(b"x-forwarded-for") == [b"192.0.2.1"]
    assert fetch.values(b"x-forwarded-proto") == [b"http"]


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ([(b"x-auth-request-user", b"ada"), (b"x-user", b"bob")], "ada"),
        ([(b"remote-user", b"ada")], "ada"),
        ([(b"x-forwarded-user", b"")], NAMELESS),
        ([(b"x-user", b"zo\xc3\xab")], "zoÃ«"),
        ([(b"x-other", b"ada")], NAMELESS),
    ],
)
async def test_the_service_names_the_user(fields: list[tuple[bytes, bytes]], user: str) -> None:
    authenticator, _ = asking(Answer(fields=fields))
    assert await authenticator.authenticate(request()) == Identity(user)


async def test_copied_fields_replace_the_clients_and_others_stay_behind() -> None:
    answer = Answer(fields=[(b"x-user", b"ada"), (b"x-roles", b"a"), (b"x-roles", b"b"), (b"x-secret", b"s")])
    authenticator, _ = asking(answer, copy_headers=["X-User", "X-Roles", "X-Absent"])
    reached = Reached()
    forged = [(b"x-user", b"root"), (b"x-roles", b"admin"), (b"x-absent", b"1"), (b"authorization", b"x")]
    await call(AuthMiddleware(reached, authenticator=authenticator), request(*forged))
    assert reached.values(b"x-user") == [b"ada"]
    assert reached.values(b"x-roles") == [b"a", b"b"]
    assert reached.values(b"x-absent") == reached.values(b"x-secret") == reached.values(b"authorization") == []


async def test_a_good_verdict_is_remembered_for_its_time() -> None:
    clock = Clock()
    authenticator, fetch = asking(Answer(fields=[(b"x-user", b"ada")]), cache_s=60.0, clock=clock)
    for _ in range(3):
        assert await authenticator.authenticate(request((b"cookie", b"s=1"))) == Identity("ada")
    assert len(fetch.asked) == 1
    clock.now += 60.0
    await authenticator.authenticate(request((b"cookie", b"s=1")))
    assert len(fetch.asked) == 2


async def test_without_cache_every_request_is_asked_about() -> None:
    authenticator, fetch = asking(Answer())
    for _ in range(3):
        await authenticator.authenticate(request())
    assert len(fetch.asked) == 3


BASE: dict[str, Any] = {"fields": ((b"cookie", b"s=1"),), "target": b"/a", "method": "GET"}


@pytest.mark.parametrize(
    "other",
    [
        {"fields": ((b"cookie", b"s=2"),)},
        {"fields": ()},
        {"fields": ((b"cookie", b"s=1"), (b"authorization", b"x"))},
        {"fields": ((b"cookie", b"s=1"), (b"x-api-key", b"x"))},
        {"fields": ((b"cookie", b"s=1"), (b"origin", b"https://a.example"))},
        {"target": b"/b"},
        {"target": b"/a?x"},
        {"target": b"/%61"},
        {"method": "POST"},
        {"client": "198.51.100.9"},
        {"scheme": "https"},
        {"host": b"other.example"},
    ],
)
async def test_a_verdict_holds_for_nobody_and_nothing_else(other: dict[str, Any]) -> None:
    authenticator, fetch = asking(Answer(), cache_s=60.0)
    for setting in (BASE, {**BASE, **other}, BASE):
        scope = request(*setting["fields"], target=setting["target"], method=setting["method"])
        scope["headers"][0] = (b"host", setting.get("host", b"shop.example"))
        exchange = inside(scope, setting.get("client", "192.0.2.7"))
        exchange.scheme = setting.get("scheme", "http")
        await authenticator.authenticate(scope)
    assert len(fetch.asked) == 2


@pytest.mark.parametrize("field", [b"traceparent", b"if-none-match", b"range", b"accept-encoding"])
async def test_what_is_not_asked_does_not_part_verdicts(field: bytes) -> None:
    authenticator, fetch = asking(Answer(), cache_s=60.0)
    await authenticator.authenticate(request((field, b"1")))
    await authenticator.authenticate(request((field, b"2")))
    assert len(fetch.asked) == 1
    assert fetch.values(field) == []


async def test_websockets_are_asked_about_as_get() -> None:
    authenticator, fetch = asking(Answer())
    scope = {**request(), "type": "websocket"}
    del scope["method"]
    await authenticator.authenticate(scope)
    assert fetch.values(b"x-forwarded-method") == [b"GET"]
