"""What each access feature costs in process, in microseconds of CPU a request.

    python -m benchmarks.access
    python -m benchmarks.access --redis redis://127.0.0.1:6379/0

Every feature stands before an application that answers at once and is measured against that application alone, the two
in turn; the figure is the median of their differences.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from joserfc import jwt
from joserfc.jwk import RSAKey
from pwdlib.hashers.bcrypt import BcryptHasher
from starlette.types import ASGIApp

from benchmarks.hello import app as hello
from benchmarks.in_process import Field, request_us, scope
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.middleware.access import AccessMiddleware
from gateway.middleware.auth import AuthMiddleware
from gateway.middleware.auth_api_key import ApiKeys
from gateway.middleware.auth_basic import BasicAuthenticator
from gateway.middleware.auth_forward import ForwardAuthenticator
from gateway.middleware.auth_jwt import JwtAuthenticator
from gateway.middleware.concurrency import ConcurrencyMiddleware
from gateway.middleware.cors import CorsMiddleware
from gateway.middleware.overload import OverloadMiddleware
from gateway.middleware.rate_limit import RateLimitMiddleware
from gateway.middleware.rate_limit_store import CounterStore

ROUNDS = 15
REQUESTS = 2000


class Feature(NamedTuple):
    """A layer, and the fields that its requests carry besides the usual ones."""

    name: str
    app: ASGIApp
    fields: Sequence[Field] = ()
    requests: int = REQUESTS


class Answered(NamedTuple):
    """What the service of forward authentication, or of keys, says."""

    status: int
    fields: list[Field]
    body: bytes


async def cost_us(app: ASGIApp, fields: Sequence[Field], requests: int) -> float:
    """CPU microseconds of one request inside a gateway."""
    scopes = [scope(b"/items/7", fields) for _ in range(requests)]
    for one in scopes:
        exchange = one[SCOPE_KEY] = Exchange("GET", b"/items/7")
        exchange.client = "192.0.2.7"
    return await request_us(app, scopes)


def bearer(key: RSAKey) -> Callable[[int], Field]:
    """Tokens that are all different."""

    def make(number: int) -> Field:
        claims = {"iss": "me", "aud": "shop", "sub": f"user-{number}", "exp": int(time.time()) + 3600}
        return b"authorization", b"Bearer " + jwt.encode({"alg": "RS256", "kid": "1"}, claims, key).encode("ascii")

    return make


def features(key: RSAKey, redis: str | None) -> list[Feature]:
    """Everything in `allow` to `max_concurrent`, and shedding."""
    keys = json.dumps({"keys": [key.as_dict(private=False)]}).encode("ascii")

    async def fetch_keys(url: str, fields: Sequence[Field]) -> Answered:
        return Answered(200, [], keys)

    async def fetch_verdict(url: str, fields: Sequence[Field]) -> Answered:
        return Answered(200, [(b"x-user", b"ada")], b"")

    def guarded(authenticator: Any) -> ASGIApp:
        return AuthMiddleware(hello, authenticator=authenticator)

    password = base64.b64encode(b"ada:secret")
    networks = [f"10.{number}.0.0/16" for number in range(100)]
    found = [
        Feature("allow and deny, one network each", AccessMiddleware(hello, allow=["192.0.2.0/24"], deny=["::1"])),
        Feature("deny, 100 networks", AccessMiddleware(hello, deny=networks)),
        Feature("max_concurrent", ConcurrencyMiddleware(hello, max_concurrent=1000)),
        Feature(
            "overload, both limits",
            OverloadMiddleware(hello, max_in_flight=1000, max_loop_lag_s=1.0, loop_lag=lambda: 0.0),
        ),
        Feature("rate limit in memory", RateLimitMiddleware(hello, count=10**9, burst=10**6)),
        Feature("API key", guarded(ApiKeys({"ada": "secret"})), [(b"x-api-key", b"secret")]),
        Feature(
            "basic, remembered",
            guarded(BasicAuthenticator({"ada": BcryptHasher(rounds=4).hash("secret")})),
            [(b"authorization", b"Basic " + password)],
        ),
        Feature(
            "JWT RS256, remembered",
            guarded(JwtAuthenticator(jwks="http://k/", issuer="me", audience="shop", fetch=fetch_keys)),
            [bearer(key)(0)],
        ),
        Feature(
            "forward, remembered",
            guarded(ForwardAuthenticator(url="http://a/", fetch=fetch_verdict, copy_headers=["X-User"], cache_s=3600)),
            [(b"authorization", b"Bearer x")],
        ),
        Feature(
            "forward, asked each time, less the fetch itself",
            guarded(ForwardAuthenticator(url="http://a/", fetch=fetch_verdict, copy_headers=["X-User"])),
            [(b"authorization", b"Bearer x")],
        ),
        Feature(
            "CORS, an allowed origin",
            CorsMiddleware(hello, origins=["https://a.example"]),
            [(b"origin", b"https://a.example")],
        ),
    ]
    if redis is not None:
        store = CounterStore(redis, timeout_s=10)
        limit = RateLimitMiddleware(hello, count=10**9, burst=10**6, store=store, namespace="bench")
        found.append(Feature("rate limit in Redis", limit, requests=300))
    return found


async def new_tokens_us(key: RSAKey) -> float:
    """A token that was not seen before: its signature has to be checked."""
    keys = json.dumps({"keys": [key.as_dict(private=False)]}).encode("ascii")

    async def fetch_keys(url: str, fields: Sequence[Field]) -> Answered:
        return Answered(200, [], keys)

    who = JwtAuthenticator(jwks="http://k/", issuer="me", audience="shop", fetch=fetch_keys)
    app = AuthMiddleware(hello, authenticator=who)
    make = bearer(key)
    await cost_us(app, [make(0)], 1)
    costs = []
    for number in range(200):
        field = make(number + 1)
        costs.append(await cost_us(app, [field], 1))
    return statistics.median(costs)


async def measure(redis: str | None) -> None:
    key = RSAKey.generate_key(2048, {"kid": "1"})
    for feature in features(key, redis):
        await cost_us(feature.app, feature.fields, 100)
        costs = []
        for _ in range(ROUNDS):
            alone = await cost_us(hello, feature.fields, feature.requests)
            costs.append(await cost_us(feature.app, feature.fields, feature.requests) - alone)
        print(f"{feature.name:<50} {statistics.median(costs):>7.2f} us")
    print(f"{'JWT RS256, a token not seen before':<50} {await new_tokens_us(key):>7.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", help="URL of a Redis to keep counters in as well")
    asyncio.run(measure(parser.parse_args().redis))


if __name__ == "__main__":
    main()
