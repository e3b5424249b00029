"""Guarded routes on the short way: each request is counted once, holds its place once, and is its own client's."""

from __future__ import annotations

import asyncio
import gc
import json
from base64 import b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pwdlib.hashers.bcrypt import BcryptHasher

from gateway.exchange import Admitted
from gateway.middleware.auth import Identity
from tests.express.support import warm
from tests.support.gateway import Served, make_gateway, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

OK = response(200, body=b"hello")
KEYS = {"api_key": {"keys": {"ada": "a-secret", "bob": "b-secret"}}}
ADA, BOB = (b"X-API-Key", b"a-secret"), (b"X-API-Key", b"b-secret")
# Nothing comes back while a test runs.
LIMIT = {"rate": "1/h", "burst": 1000}


def left(answer: Any) -> int:
    """How many requests the rate limit says are left."""
    (value,) = answer.values(b"ratelimit")
    return int(value.partition(b";r=")[2].partition(b";")[0])


def places(served: Served) -> int:
    """How many requests are counted on the route."""
    return served.gateway.runtime.in_flight_on("all").count


async def echoing(connection: ScriptedConnection) -> None:
    while True:
        asked = await connection.read_request()
        if asked.target == b"/slow":
            await connection.wait_eof()
        elif asked.target == b"/large":
            await connection.send(response(200, body=b"x" * 200_000))
        elif asked.target == b"/busy":
            await connection.send(response(503, body=b"busy"))
        elif asked.target == b"/elsewhere":
            await connection.send(response(302, [(b"Location", b"/")], b""))
        elif asked.target == b"/broken":
            connection.reset()
            return
        else:
            await connection.send(OK)


@pytest.mark.parametrize("target", [b"/", b"/large", b"/busy", b"/elsewhere", b"/broken", b"/%zz", b"/a/../b"])
async def test_every_request_is_counted_once_whatever_becomes_of_it(target: bytes, server: str) -> None:
    config: dict[str, Any] = {"rate_limit": LIMIT, "max_concurrent": 2, "retry": False, "auth": KEYS}
    async with (
        ScriptedUpstream(echoing) as upstream,
        serving(proxying(upstream.url, **config), server=server) as served,
    ):
        async with served.client() as client:
            seen = []
            for each in (b"/", b"/", target, b"/", target, b"/"):
                client.write(request(target=each, fields=[ADA]))
                answer = await client.answer()
                if answer.values(b"ratelimit"):
                    seen.append(left(answer))
                if not answer.keeps_alive:
                    break
        assert seen == list(range(999, 999 - len(seen), -1))
        assert len(seen) >= 2
        await until(lambda: not places(served))


async def test_a_request_for_which_no_endpoint_is_left_is_counted_once(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, rate_limit=LIMIT, max_concurrent=2), server=server) as (served, ways, client),
    ):
        (endpoint,) = served.upstream.endpoints
        served.upstream.drain(endpoint.label)
        for expected in (998, 997):
            client.write(request())
            answer = await client.answer()
            assert (answer.status, left(answer)) == (503, expected)
        served.upstream.drain(endpoint.label, on=False)
        client.write(request())
        assert left(await client.answer()) == 996
        assert (ways.short, places(served)) == (1, 0)


async def test_a_request_that_waits_for_room_is_counted_once_and_keeps_its_place(server: str) -> None:
    config: dict[str, Any] = {"rate_limit": LIMIT, "max_concurrent": 2, "upstream": {"max_connections": 1}}
    async with (
        ScriptedUpstream(echoing) as upstream,
        warm(proxying(upstream.url, **config), server=server) as (served, _, client),
        served.client() as busy,
    ):
        busy.write(request(target=b"/slow"))
        await until(lambda: len(upstream.requests) == 2)
        client.write(request())
        await until(lambda: served.upstream.pending == 1)
        assert places(served) == 2
        busy.leave()
        answer = await client.answer()
        assert (answer.status, left(answer)) == (200, 997)
        await until(lambda: not places(served))


async def test_beyond_the_rate_a_request_is_refused_and_not_counted(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, rate_limit={"rate": "1/h", "burst": 3}), server=server) as (_, ways, client),
    ):
        statuses = []
        for _ in range(4):
            client.write(request())
            answer = await client.answer()
            statuses.append((answer.status, left(answer)))
            assert bool(answer.values(b"retry-after")) == (answer.status == 429)
        assert statuses == [(200, 1), (200, 0), (429, 0), (429, 0)]
        assert ways.short == 2
        assert len(upstream.requests) == 3


# Who counts by the field of the credentials counts what the client sent, though the service never sees it.
@pytest.mark.parametrize("key", ["user", "header:X-API-Key"])
async def test_both_ways_count_under_the_same_key(key: str, server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, rate_limit={**LIMIT, "key": key}, auth=KEYS), server=server) as (
            _,
            ways,
            client,
        ),
    ):
        seen: dict[bytes, list[int]] = {b"a-secret": [], b"b-secret": []}
        for method, sent in [("GET", ADA), ("POST", ADA), ("GET", BOB), ("GET", ADA), ("POST", BOB), ("GET", ADA)]:
            client.write(request(method, fields=[sent], body=b"x" if method == "POST" else None))
            seen[sent[1]].append(left(await client.answer()))
        assert seen == {b"a-secret": [999, 998, 997, 996], b"b-secret": [999, 998]}
        assert ways.short == 3


async def test_the_bound_holds_over_both_ways_and_every_ending_gives_the_place_back(server: str) -> None:
    async with (
        ScriptedUpstream(echoing) as upstream,
        warm(proxying(upstream.url, max_concurrent=2), server=server) as (served, _, client),
        served.client() as one,
        served.client() as other,
    ):
        one.write(request(target=b"/slow"))
        other.write(request("POST", b"/slow", body=b"x"))
        await until(lambda: len(upstream.requests) == 3)
        assert places(served) == 2
        client.write(request())
        refused = await client.answer()
        assert (refused.status, refused.values(b"retry-after") != []) == (503, True)
        one.leave()
        await until(lambda: places(served) == 1)
        client.write(request())
        assert (await client.answer()).status == 200
        other.leave()
        await until(lambda: places(served) == 0)


async def test_a_place_is_kept_through_a_reload_and_given_back(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            asked = await connection.read_request()
            if asked.target == b"/slow":
                await go_on.wait()
            await connection.send(OK)

    async with (
        ScriptedUpstream(script) as upstream,
        warm(proxying(upstream.url, max_concurrent=1), server=server) as (served, _, client),
        served.client() as other,
    ):
        client.write(request(target=b"/slow"))
        await until(lambda: len(upstream.requests) == 2)
        new = make_gateway(proxying(upstream.url, max_concurrent=1, response_headers={"set": {"X-New": "1"}}))
        await served.gateway.reload(new.config)
        other.write(request())
        assert (await other.answer()).status == 503
        go_on.set()
        assert (await client.answer()).status == 200
        await until(lambda: not places(served))
        other.write(request())
        assert ((answer := await other.answer()).status, answer.value(b"x-new")) == (200, b"1")


async def test_clients_behind_one_connection_are_never_taken_for_each_other(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, auth=KEYS, server={"trusted_proxies": ["127.0.0.0/8"]}), server=server) as (
            served,
            ways,
            client,
        ),
    ):
        order = [ADA, BOB, None, ADA, (b"X-API-Key", b"c-secret"), BOB, BOB]
        statuses = []
        for key in order:
            client.write(request(fields=[] if key is None else [key]))
            statuses.append((await client.answer()).status)
        assert statuses == [200, 200, 401, 200, 401, 200, 200]
        users = [exchange.user for exchange in (await served.ended(8))[1:]]
        assert users == ["ada", "bob", "", "ada", "", "bob", "bob"]
        # All but the refused, and the first one of all, for which no connection idles.
        assert ways.short == 4
        assert not any(asked.values(b"x-api-key") for asked in upstream.requests)


async def test_what_was_made_of_fields_is_not_kept_when_they_are_somebody_elses(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, auth=KEYS, rate_limit={**LIMIT, "key": "user"}), server=server) as (
            served,
            _,
            client,
        ),
    ):
        auth = served.gateway.generation.routes["all"].lane._guards.auth  # type: ignore[union-attr]
        seen = []
        for name in ("ada", "bob", "ada", "ada"):
            found = Identity(name, ((b"x-user", name.encode()),))
            auth.known = lambda headers, found=found: found
            auth.authenticator.authenticate = lambda scope, found=found: asyncio.sleep(0, found)
            client.write(request(fields=[ADA]))
            seen.append(left(await client.answer()))
        assert [asked.values(b"x-user") for asked in upstream.requests] == [[b"ada"], [b"bob"], [b"ada"], [b"ada"]]
        assert seen == [999, 999, 998, 997]
        assert [exchange.user for exchange in (await served.ended(5))[1:]] == ["ada", "bob", "ada", "ada"]


async def test_a_token_is_judged_anew_as_soon_as_it_may_hold_no_longer(server: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    published = {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k"}
    published.pop("key_ops", None)
    keys = json.dumps({"keys": [published]}).encode()
    claims = {"iss": "me", "aud": "shop", "exp": 4_000_000_000}
    ada, bob = (jwt.encode({**claims, "sub": name}, key, "ES256", {"kid": "k"}).encode() for name in ("ada", "bob"))
    settings = {"issuer": "me", "audience": "shop", "claims_to_headers": {"sub": "X-User"}}
    async with (
        ScriptedUpstream(respond(response(200, body=keys))) as issuer,
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, auth={"jwt": {"jwks": issuer.url, **settings}}), server=server) as (
            served,
            ways,
            client,
        ),
    ):

        async def ask(token: bytes) -> int:
            client.write(request(fields=[(b"Authorization", b"Bearer " + token), (b"X-User", b"root")]))
            return (await client.answer()).status

        assert [await ask(token) for token in (ada, bob, ada, bob, ada[:-4] + b"AAAA", ada)] == [200] * 4 + [401, 200]
        assert [asked.values(b"x-user") for asked in upstream.requests] == [[b"ada"], [b"bob"]] * 2 + [[b"ada"]]
        assert not any(asked.values(b"authorization") for asked in upstream.requests)
        # What came before the issuer's keys were there has to be judged again.
        assert ways.short == 2
        guards = served.gateway.generation.routes["all"].lane._guards  # type: ignore[union-attr]
        # By this clock it holds no longer: the layers are to say so.
        guards.auth.authenticator._wall_clock = lambda: 4_000_000_031.0
        await ask(ada)
        assert ways.short == 2


async def test_a_limit_by_a_field_that_authentication_sets_counts_what_the_client_sent(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, rate_limit={**LIMIT, "key": "header:X-Tenant"}, auth=KEYS), server=server) as (
            served,
            ways,
            client,
        ),
    ):
        auth = served.gateway.generation.routes["all"].lane._guards.auth  # type: ignore[union-attr]
        found = Identity("ada", ((b"x-tenant", b"vouched for"),))
        auth.known = lambda headers: found
        auth.authenticator.authenticate = lambda scope: asyncio.sleep(0, found)
        seen = []
        for method, tenant in (("GET", b"one"), ("POST", b"one"), ("GET", b"other"), ("GET", b"one")):
            client.write(request(method, fields=[ADA, (b"X-Tenant", tenant)], body=b"x" if method == "POST" else None))
            seen.append(left(await client.answer()))
        assert (seen, ways.short) == ([999, 998, 999, 997], 2)


async def test_a_password_is_verified_once_and_remembered_for_both_ways(server: str) -> None:
    users = {"bob": BcryptHasher(rounds=4).hash("blau")}
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, auth={"basic": {"users": users}}), server=server) as (served, ways, client),
    ):
        for password, status, short in ((b"blau", 200, 0), (b"blau", 200, 1), (b"rot", 401, 1), (b"blau", 200, 2)):
            client.write(request(fields=[(b"Authorization", b"Basic " + b64encode(b"bob:" + password))]))
            assert ((await client.answer()).status, ways.short) == (status, short)
        assert [exchange.user for exchange in (await served.ended(5))[1:]] == ["bob", "bob", "", "bob"]


@pytest.mark.parametrize("shares", [True, False], ids=["for everybody", "not for everybody"])
async def test_what_is_stored_is_for_those_whom_the_gateway_knows_if_it_says_so(shares: bool, server: str) -> None:
    lasting = b"max-age=999999999" + (b", public" if shares else b"")
    fresh = response(200, [(b"Cache-Control", lasting), (b"Date", b"Sat, 28 Nov 2026 00:00:00 GMT")], b"hello")
    config: dict[str, Any] = {"cache": True, "auth": KEYS, "rate_limit": LIMIT, "max_concurrent": 1}
    async with (
        ScriptedUpstream(respond(fresh)) as upstream,
        warm(proxying(upstream.url, **config), server=server) as (served, ways, client),
    ):
        rest = []
        for key in (ADA, BOB, ADA, BOB):
            client.write(request(fields=[key]))
            answer = await client.answer()
            assert answer.body == b"hello"
            rest.append(left(answer))
        assert rest == [998, 997, 996, 995]
        assert len(upstream.requests) == (1 if shares else 4)
        # The first one has to be judged before it is known that nobody can wait for another's.
        assert ways.short == 3
        assert [exchange.user for exchange in (await served.ended(5))[1:]] == ["ada", "bob"] * 2
        assert places(served) == 0


async def test_pipelined_hits_are_counted_once_each(server: str) -> None:
    fresh = response(200, [(b"Cache-Control", b"max-age=999999999"), (b"Date", b"Sat, 28 Nov 2026 00:00:00 GMT")], b"a")
    async with (
        ScriptedUpstream(respond(fresh)) as upstream,
        warm(proxying(upstream.url, cache=True, rate_limit=LIMIT), server=server) as (_, ways, client),
    ):
        client.write(request() * 300)
        assert [left(await client.answer()) for _ in range(300)] == list(range(998, 698, -1))
        assert ways.short > 250


async def test_answers_say_who_may_read_them_to_each_origin_alone(server: str) -> None:
    fresh = response(200, [(b"Cache-Control", b"max-age=999999999"), (b"Date", b"Sat, 28 Nov 2026 00:00:00 GMT")], b"a")
    cors = {"origins": ["https://a.example", "https://b.example"]}
    origins = [b"https://a.example", None, b"https://b.example", b"https://c.example", b"https://a.example"]
    for cache in (False, True):
        async with (
            ScriptedUpstream(respond(fresh)) as upstream,
            warm(proxying(upstream.url, cache=cache, cors=cors), server=server) as (_, ways, client),
        ):
            for _ in range(2):
                for origin in origins:
                    client.write(request(fields=[] if origin is None else [(b"Origin", origin)]))
                    answer = await client.answer()
                    is_allowed = origin is not None and origin != b"https://c.example"
                    assert answer.values(b"access-control-allow-origin") == ([origin] if is_allowed else [])
                    assert answer.values(b"vary") == [b"Origin"]
            assert ways.short == 2 * len(origins)


async def test_a_sticky_client_stays_and_is_told_so_once(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as one, ScriptedUpstream(respond(OK)) as other:
        config = proxying(one.url, other.url, upstream={"sticky": {"cookie": "at"}, "balance": "round-robin"})
        async with warm(config, server=server) as (_, ways, client):
            # Both endpoints have an idle connection from here on.
            client.write(request())
            await client.answer()
            before = ways.short
            client.write(request())
            answer = await client.answer()
            (cookie,) = answer.values(b"set-cookie")
            assert ways.short == before + 1
            mine, counts = cookie.partition(b";")[0], (len(one.requests), len(other.requests))
            for _ in range(6):
                client.write(request(fields=[(b"Cookie", b"a=b; " + mine)]))
                assert (await client.answer()).values(b"set-cookie") == []
            assert ways.short == before + 7
            grown = (len(one.requests) - counts[0], len(other.requests) - counts[1])
            assert sorted(grown) == [0, 6]
            # An endpoint that nobody knows: a new cookie, and only one.
            client.write(request(fields=[(b"Cookie", b"at=forged")]))
            assert len((await client.answer()).values(b"set-cookie")) == 1


async def test_a_sticky_client_whose_endpoint_fails_is_told_of_the_other_alone(server: str) -> None:
    async with ScriptedUpstream(echoing) as bad, ScriptedUpstream(respond(OK)) as good:
        config = proxying(
            bad.url, good.url, upstream={"sticky": {"cookie": "at"}, "balance": "first"}, retry={"attempts": 2}
        )
        async with warm(config, server=server) as (_, _, client):
            client.write(request(target=b"/broken"))
            (cookie,) = (await client.answer()).values(b"set-cookie")
            assert len(good.requests) == 1
            client.write(request(fields=[(b"Cookie", cookie.partition(b";")[0])]))
            assert (await client.answer()).values(b"set-cookie") == []
            assert len(good.requests) == 2


async def test_what_is_known_of_a_client_who_never_says_the_same_twice_goes_with_the_request(server: str) -> None:
    def admitted() -> int:
        return sum(isinstance(thing, Admitted) for thing in gc.get_objects())

    async with (
        ScriptedUpstream(echoing) as upstream,
        warm(proxying(upstream.url, rate_limit=LIMIT, max_concurrent=2), server=server) as (_, ways, client),
    ):
        gc.disable()
        try:
            before = admitted()
            for number in range(50):
                client.write(request(fields=[(b"X-Trace", b"%d" % number)]))
                assert (await client.answer()).status == 200
            assert admitted() < before + 5
        finally:
            gc.enable()
        assert ways.short == 50
