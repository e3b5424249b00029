"""The access rules of a configuration, in their order, through the whole gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import bcrypt
import pytest
from starlette.types import Receive, Scope, Send

from gateway.app import Gateway
from gateway.config.problems import ConfigError
from gateway.exchange import Exchange
from tests.support.messages import Sent, call, http_scope
from tests.support.upstream import ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

BASIC = {"basic": {"users": {"ada": bcrypt.hashpw(b"blau", bcrypt.gensalt(4)).decode()}}}
ADA = (b"authorization", b"Basic YWRhOmJsYXU=")
KEYS = {"api_key": {"keys": {"ada": "secret-of-ada", "bob": "secret-of-bob"}}}
OK = {"respond": {"status": 200, "body": "in"}}
PREFLIGHT = [(b"origin", b"https://app.example"), (b"access-control-request-method", b"GET")]
held = asyncio.Event()


async def holds(scope: Scope, receive: Receive, send: Send) -> None:
    """An in-process upstream that answers when it may."""
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    await held.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def serving(*routes: dict[str, Any], **server: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway.from_config(table(*routes, **server))
    async with gateway.lifespan():
        yield gateway


def table(*routes: dict[str, Any], **server: Any) -> dict[str, Any]:
    named = [{"name": f"r{index}", "path": "/*", **route} for index, route in enumerate(routes)]
    return {"server": {"access_log": "off", **server}, "routes": named}


async def get(
    gateway: Gateway, *fields: tuple[bytes, bytes], target: bytes = b"/", method: str = "GET", client: str = "192.0.2.1"
) -> Sent:
    return await call(gateway, http_scope(method, target, [(b"host", b"shop.example"), *fields], client=client))


async def reload(gateway: Gateway, *routes: dict[str, Any], **server: Any) -> None:
    from gateway.config.load import load_config

    await gateway.reload(load_config(table(*routes, **server)))


async def test_guessing_passwords_is_limited_where_the_limit_is_by_address() -> None:
    async with serving({**OK, "auth": BASIC, "rate_limit": {"rate": "1/h", "burst": 3}}) as gateway:
        statuses = [(await get(gateway)).status for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        assert (await get(gateway, ADA)).status == 429
        assert (await get(gateway, ADA, client="192.0.2.2")).status == 200


async def test_a_limit_by_user_counts_users_wherever_they_are_and_nobody_else() -> None:
    limit = {"rate": "1/h", "burst": 1, "key": "user"}
    async with serving({**OK, "auth": KEYS, "rate_limit": limit}) as gateway:
        ada, bob = (b"x-api-key", b"secret-of-ada"), (b"x-api-key", b"secret-of-bob")
        assert (await get(gateway, ada)).status == 200
        assert (await get(gateway, ada, client="198.51.100.1")).status == 429
        assert (await get(gateway, bob)).status == 200
        assert [(await get(gateway)).status for _ in range(3)] == [401] * 3


async def test_addresses_that_are_not_admitted_are_refused_before_anything_is_asked() -> None:
    route = {**OK, "auth": BASIC, "allow": ["10.0.0.0/8"], "rate_limit": {"rate": "1/h", "burst": 1}}
    async with serving(route) as gateway:
        for _ in range(3):
            sent = await get(gateway, ADA)
            assert sent.status == 403
            assert sent.values(b"www-authenticate") == sent.values(b"ratelimit") == []
        assert (await get(gateway, ADA, client="10.0.0.1")).status == 200


async def test_a_preflight_needs_no_credentials_and_opens_nothing_else() -> None:
    async with serving({**OK, "auth": BASIC, "cors": {"origins": ["https://app.example"]}}) as gateway:
        assert (await get(gateway, *PREFLIGHT, method="OPTIONS")).status == 204
        assert (await get(gateway, method="OPTIONS")).status == 401
        assert (await get(gateway, *PREFLIGHT)).status == 401
        refused = await get(gateway, PREFLIGHT[0])
        assert (refused.status, refused.values(b"access-control-allow-origin")) == (401, [b"https://app.example"])


async def test_what_the_service_gets_of_identity_and_credentials() -> None:
    async with (
        ScriptedUpstream(respond(response(200, [(b"X_User", b"ada"), (b"X-Forwarded-User", b"ada")]))) as authority,
        ScriptedUpstream(respond(response())) as service,
    ):
        auth = {"forward": {"url": authority.url + "/check", "copy_headers": ["X_User", "X-Forwarded-User", "X-Team"]}}
        forged = [(b"x_user", b"root"), (b"x-forwarded-user", b"root"), (b"x-team", b"root"), (b"x-user", b"plain")]
        async with serving({"upstream": service.url, "auth": auth}) as gateway:
            sent = await get(gateway, ADA, *forged, (b"connection", b"X_User, X-Forwarded-User"), target=b"/a?b")
        assert sent.status == 200
        (question,) = authority.requests
        assert question.target == b"/check"
        assert question.values(b"authorization") == [ADA[1]]
        assert question.values(b"x-forwarded-uri") == [b"/a?b"]
        assert question.values(b"x_user") == question.values(b"x-forwarded-user") == question.values(b"x-team") == []
        (request,) = service.requests
        assert request.values(b"x_user") == request.values(b"x-forwarded-user") == [b"ada"]
        assert request.values(b"x-team") == request.values(b"authorization") == []
        # A WSGI application could not tell it from the one above.
        assert request.values(b"x-user") == []


@pytest.mark.parametrize(("forward", "expected"), [(False, []), (True, [b"secret-of-ada"])])
async def test_credentials_reach_the_service_only_where_configured(forward: bool, expected: list[bytes]) -> None:
    async with (
        ScriptedUpstream(respond(response())) as service,
        serving({"upstream": service.url, "auth": {**KEYS, "forward_credentials": forward}}) as gateway,
    ):
        assert (await get(gateway, (b"x-api-key", b"secret-of-ada"))).status == 200
        assert service.requests[0].values(b"x-api-key") == expected


async def test_an_answer_for_one_user_is_not_stored_for_others_unless_it_says_so() -> None:
    for control, hits in ((b"max-age=60", 0), (b"public, max-age=60", 1)):
        async with (
            ScriptedUpstream(respond(response(200, [(b"Cache-Control", control)], b"x"))) as service,
            serving({"upstream": service.url, "auth": KEYS, "cache": True}) as gateway,
        ):
            for owner in (b"ada", b"bob"):
                assert (await get(gateway, (b"x-api-key", b"secret-of-" + owner))).status == 200
            assert len(service.requests) == 2 - hits
            assert (await get(gateway)).status == 401, "what is stored is for those who may have it"


async def test_the_log_names_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({**OK, "auth": KEYS}) as gateway:
        seen: list[Exchange] = []
        monkeypatch.setattr(gateway.runtime.metrics, "record", seen.append)
        await reload(gateway, {**OK, "auth": KEYS}, via="anew")
        await get(gateway, (b"x-api-key", b"secret-of-bob"))
        assert [exchange.user for exchange in seen] == ["bob"]


async def test_exempt_routes_are_never_shed() -> None:
    held.clear()
    slow = {"name": "slow", "path": "/slow", "upstream": f"asgi:{__name__}:holds"}
    health = {"name": "health", "path": "/health", **OK}
    overload = {"max_in_flight": 2, "exempt": ["health"]}
    async with serving(slow, health, OK, overload=overload) as gateway:
        running = [asyncio.create_task(get(gateway, target=b"/slow")) for _ in range(2)]
        await asyncio.sleep(0)
        shed = await get(gateway)
        assert (shed.status, shed.values(b"retry-after")) == (503, [b"1"])
        assert (await get(gateway, target=b"/slow")).status == 503
        assert (await get(gateway, target=b"/health")).status == 200
        held.set()
        assert [sent.status for sent in await asyncio.gather(*running)] == [200, 200]
        assert (await get(gateway)).status == 200
        assert gateway.runtime.in_flight.count == 0


async def test_a_late_event_loop_sheds(monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"name": "health", "path": "/health", **OK}
    async with serving(health, OK, overload={"max_loop_lag": "100ms", "exempt": ["health"]}) as gateway:
        assert (await get(gateway)).status == 200
        monkeypatch.setattr(gateway.runtime.ticker, "lag_s", 0.2)
        assert (await get(gateway)).status == 503
        assert (await get(gateway, target=b"/health")).status == 200


async def test_counts_in_flight_survive_a_reload_that_changes_the_route() -> None:
    held.clear()
    slow = {"upstream": f"asgi:{__name__}:holds", "max_concurrent": 1}
    async with serving(slow, overload={"max_in_flight": 5}) as gateway:
        running = asyncio.create_task(get(gateway))
        await asyncio.sleep(0)
        await reload(gateway, {**slow, "timeout": "7s"}, overload={"max_in_flight": 5})
        assert (await get(gateway)).status == 503
        assert gateway.runtime.in_flight.count == 1
        held.set()
        assert (await running).status == 200
        assert (await get(gateway)).status == 200


async def test_rate_limits_survive_a_reload_unless_they_change_themselves() -> None:
    route = {**OK, "rate_limit": {"rate": "1/h", "burst": 2}}
    async with serving(route) as gateway:
        assert [(await get(gateway)).status for _ in range(3)] == [200, 200, 429]
        await reload(gateway, {**route, "response_headers": {"set": {"X-New": "1"}}})
        assert (await get(gateway)).status == 429
        await reload(gateway, {**OK, "rate_limit": {"rate": "1/h", "burst": 3}})
        assert (await get(gateway)).status == 200


async def test_counts_of_routes_that_are_gone_are_forgotten() -> None:
    async with serving({**OK, "max_concurrent": 1}) as gateway:
        await reload(gateway, {**OK, "name": "other", "max_concurrent": 1})
        assert list(gateway.runtime._in_flight_by_route) == ["other"]


async def test_keys_that_cannot_be_told_apart_are_a_configuration_error() -> None:
    import hashlib

    hashed = "sha256:" + hashlib.sha256(b"same").hexdigest()
    gateway = Gateway.from_config(table({**OK, "auth": {"api_key": {"keys": {"ada": "same", "bob": hashed}}}}))
    with pytest.raises(ConfigError, match=r"routes\.r0\.auth: 'bob' and 'ada' have the same API key") as failure:
        await gateway.start()
    assert "same\n" not in str(failure.value) and hashed not in str(failure.value)
    await gateway.runtime.aclose()


async def test_tokens_are_judged_by_keys_that_the_gateway_fetches_itself() -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    published = {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k"}
    published.pop("key_ops", None)
    keys = json.dumps({"keys": [published]}).encode()
    claims = {"iss": "me", "aud": "shop", "sub": "ada", "exp": 4_000_000_000}
    token = jwt.encode(claims, key, "ES256", {"kid": "k"}).encode()
    async with (
        ScriptedUpstream(respond(response(200, body=keys))) as issuer,
        ScriptedUpstream(respond(response())) as service,
    ):
        auth = {"jwt": {"jwks": issuer.url, "issuer": "me", "audience": "shop", "claims_to_headers": {"sub": "X-User"}}}
        async with serving({"upstream": service.url, "auth": auth}) as gateway:
            for _ in range(2):
                sent = await get(gateway, (b"authorization", b"Bearer " + token), (b"x-user", b"root"))
                assert sent.status == 200
            assert (await get(gateway, (b"authorization", b"Bearer " + token[:-2]))).status == 401
            assert (await get(gateway, (b"x-user", b"root"))).status == 401
        assert len(issuer.requests) == 1
        assert [request.values(b"x-user") for request in service.requests] == [[b"ada"], [b"ada"]]
        assert [request.values(b"authorization") for request in service.requests] == [[], []]


async def test_metrics_show_what_is_in_flight_and_connected() -> None:
    async with (
        ScriptedUpstream(respond(response(200, [(b"Cache-Control", b"max-age=60")], b"x"))) as service,
        serving({"upstream": service.url, "cache": True}) as gateway,
    ):
        await get(gateway)
        exposed = gateway.runtime.metrics.exposition().decode()
        assert "gateway_in_flight 0.0" in exposed
        assert "gateway_cache_keys 1.0" in exposed
        assert f'gateway_endpoint_connections{{endpoint="127.0.0.1:{service.port}"' in exposed
