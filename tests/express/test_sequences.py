"""Random conversations of several clients with random routes: on both ways every end sees the same, whoever asks.

The tables of ``test_same_as_the_long_way`` look at one exchange at a time. Here what is remembered of one client and
one answer meets the next: the upstream says in each answer who asked for it, so nobody gets what is another's unseen.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from tests.express.support import Ways, close_short_ways
from tests.support.gateway import Answer, Client, Served, proxying, request, serving
from tests.support.upstream import RecordedRequest, Script, ScriptedConnection, ScriptedUpstream

pytestmark = pytest.mark.anyio

Fields = list[tuple[bytes, bytes]]
Asked = tuple[int, str, bytes, bytes, Fields]
"""On which of the connections, method, target, Host, and the other fields."""

_DIFFERS = re.compile(rb"\b[0-9a-f]{12}1[0-9a-f]{7}|127\.0\.0\.1:\d+|\bat=[0-9a-f]{24}|; ttl=-?\d+|;t=\d+")
"""Request ids, ports, names of endpoints, and what is left of a time."""
_UNSTABLE = frozenset([b"date", b"via", b"age"])
_TOLD = (
    *(b"host", b"x-api-key", b"cookie", b"origin", b"accept-encoding", b"x-tenant", b"authorization", b"range"),
    *(b"if-none-match", b"accept", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
)
_KEYS = {"api_key": {"keys": {"ada": "a-secret", "bob": "b-secret"}}}

# Each is there, with one of its values, in this share of the routes.
_ROUTES: list[tuple[float, str, list[Any]]] = [
    (
        0.6,
        "cache",
        [
            True,
            {"ttl": "2h"},
            {"ttl": "2h", "override": True},
            {"vary": ["X-Tenant"]},
            {"cookies": ["lang"]},
            {"query": {"only": ["a"]}},
            {"request_cookie": "ignore"},
            {"set_cookie": "store"},
            {"status_header": False},
        ],
    ),
    (0.5, "compress", [True, {"min_size": "1B"}, {"codings": ["gzip"]}]),
    (0.5, "auth", [_KEYS, {**_KEYS, "forward_credentials": True}]),
    (
        0.4,
        "rate_limit",
        [
            {"rate": "1/h", "burst": burst, "key": key}
            for burst in (6, 1000)
            for key in ("client-ip", "header:X-Tenant", "header:X-API-Key")
        ],
    ),
    (0.4, "max_concurrent", [1, 5]),
    (
        0.4,
        "cors",
        [
            {"origins": ["*"]},
            {"origins": ["https://a.example", "https://b.example"]},
            {"origins": ["https://a.example"], "credentials": True, "expose": ["X-A"]},
        ],
    ),
    (0.3, "security_headers", [True]),
    (
        0.3,
        "response_headers",
        [
            {"set": {"X-Who": "gateway"}},
            {"remove": ["X-Who"]},
            {"add": {"Vary": "X-Q"}},
            {"set": {"Vary": "Accept"}},
            {"set": {"Cache-Control": "no-store"}},
            {"remove": ["ETag", "Cache-Status"]},
        ],
    ),
    (
        0.3,
        "request_headers",
        [
            {"set": {"X-Set": "{client_ip}"}},
            {"set": {"X-Set": "{host} 100%"}},
            {"set": {"X-Forwarded-For": "{client_ip}"}},
            {"add": {"X-Tenant": "{route}"}},
            {"remove": ["Cookie", "X-Forwarded-Host"]},
        ],
    ),
    (0.2, "hide_headers", [["X-Who"]]),
    (0.2, "host_header", ["upstream", "preserve", "other.example"]),
    (0.2, "retry", [False, {"attempts": 2, "on": ["connect", 500]}]),
]
_UPSTREAMS: list[tuple[float, str, list[Any]]] = [
    (0.2, "sticky", [{"cookie": "at"}]),
    (0.2, "balance", ["hash", "round-robin", "first"]),
    (0.3, "max_connections", [1, 2]),
]
_SERVERS: list[tuple[float, str, list[Any]]] = [
    (0.5, "trusted_proxies", [["127.0.0.0/8"]]),
    (0.2, "client_ip_from", ["forwarded"]),
    (0.1, "request_id_header", ["X-Rid"]),
    (0.1, "via", ["me"]),
]
_SENT: list[tuple[float, bytes, list[bytes]]] = [
    (0.7, b"X-API-Key", [b"a-secret", b"a-secret", b"b-secret", b"c-secret"]),
    (0.3, b"Cookie", [b"a=1", b"a=2", b"lang=en", b"lang=en; a=2", b"at=forged"]),
    (0.4, b"Origin", [b"https://a.example", b"https://b.example", b"https://evil.example", b"null"]),
    (0.5, b"Accept-Encoding", [b"gzip", b"br", b"zstd, gzip", b"identity", b"gzip;q=0", b"*", b""]),
    (0.3, b"X-Tenant", [b"one", b"two"]),
    (0.3, b"X-Forwarded-For", [b"192.0.2.7", b"198.51.100.9", b"192.0.2.7, 127.0.0.2", b"junk"]),
    (0.1, b"X-Forwarded-Proto", [b"https"]),
    (0.1, b"Forwarded", [b"for=192.0.2.55;proto=https"]),
    (0.1, b"X-Request-ID", [b"given-1", b"bad id\x80", b"x" * 300]),
    (0.1, b"Range", [b"bytes=0-3"]),
    (0.1, b"If-Range", [b'"v1"']),
    (0.15, b"If-None-Match", [b'"v1"', b'W/"v1"', b"*", b'"other"']),
    (0.1, b"Cache-Control", [b"no-cache", b"only-if-cached", b"max-age=0", b"no-store"]),
    (0.1, b"Authorization", [b"Bearer x", b"Basic eDp5"]),
    (0.1, b"X-HTTP-Method-Override", [b"DELETE"]),
    (0.1, b"X_Tenant", [b"forged"]),
    (0.1, b"Connection", [b"keep-alive", b"x-tenant", b"X-API-Key", b"close, x-tenant"]),
    (0.1, b"TE", [b"trailers"]),
    (0.1, b"Accept", [b"a", b"\xe4", b"100%b %s", b""]),
]
_ANSWERED: list[tuple[float, bytes, list[bytes]]] = [
    (
        0.8,
        b"Cache-Control",
        [
            *(b"max-age=9999", b"public, max-age=9999", b"max-age=9999, no-transform", b"s-maxage=9999"),
            *(b"must-revalidate, max-age=9999", b"max-age=0", b"private, max-age=9", b"no-cache", b"no-store"),
        ],
    ),
    (0.4, b"ETag", [b'"v1"', b'W/"v1"']),
    (
        0.3,
        b"Vary",
        [
            *(b"Accept-Encoding", b"Origin", b"X-Tenant", b"Cookie", b"*", b"Accept, Origin"),
            *(b"X-API-Key", b"X-Forwarded-For", b"Host"),
        ],
    ),
    (1.0, b"Content-Type", [b"application/json", b"text/html; charset=utf-8", b"image/png", b"text/plain"]),
    (0.2, b"Date", [b"Sat, 28 Nov 2026 00:00:00 GMT"]),
    (0.1, b"Location", [b"/elsewhere"]),
    (0.1, b"Connection", [b"x-who", b"close", b"keep-alive"]),
    (0.1, b"Access-Control-Allow-Origin", [b"*"]),
    (0.1, b"X-Request-ID", [b"theirs"]),
    (0.1, b"RateLimit", [b'"theirs";r=1']),
    (0.1, b"Cache-Status", [b"theirs; hit"]),
    (0.1, b"Content-Range", [b"bytes 0-4/10"]),
]
_STATUSES = [*[200] * 12, 204, 205, 206, 299, 301, 304, 403, 404, 410, 418, 500, 503]


def some(rng: Random, choices: Sequence[tuple[float, Any, list[Any]]]) -> list[tuple[Any, Any]]:
    """A random part of what there is to choose from, each with one of its values."""
    return [(name, rng.choice(values)) for share, name, values in choices if rng.random() < share]


def random_config(rng: Random) -> Callable[[str], dict[str, Any]]:
    route, upstream, server = (dict(some(rng, choices)) for choices in (_ROUTES, _UPSTREAMS, _SERVERS))
    return lambda url: proxying(url, upstream={"outlier": False, **upstream}, server=server, **route)


def random_requests(rng: Random, count: int) -> list[Asked]:
    """Requests of clients that mostly repeat themselves."""
    targets = [b"/%d" % rng.randrange(1000) for _ in range(3)]
    targets += [targets[0] + query for query in (b"?", b"?a=1", b"?b=1")]
    usual = [some(rng, _SENT) for _ in range(3)]
    made: list[Asked] = []
    for _ in range(count):
        fields = rng.choice(usual) if rng.random() < 0.85 else some(rng, _SENT)
        host = rng.choice([b"example.com"] * 8 + [b"EXAMPLE.com", b"other.example:81"])
        method = rng.choice(["GET"] * 9 + ["HEAD", "POST"])
        made.append((rng.randrange(2), method, rng.choice(targets), host, fields))
    return made


def random_origin(seed: int) -> Script:
    """What a target is answered with is random, and the same each time but for who asks."""

    def answer(asked: RecordedRequest) -> tuple[bytes, bool]:
        rng = Random(f"{seed} {asked.target!r}")
        who = b";".join([name + b"=" + b",".join(asked.values(name)) for name in _TOLD])
        body = _DIFFERS.sub(b"-", asked.target + b" for " + who) + b"x" * rng.choice(
            [0, 0, 0, 50, 2000, 20_000, 70_000]
        )
        fields = some(rng, _ANSWERED)
        if rng.random() < 0.2:
            fields.append((b"X-Who", _DIFFERS.sub(b"-", who)))
        if rng.random() < 0.2:
            fields.append((b"Set-Cookie", b"key=%b; Path=/" % b",".join(asked.values(b"x-api-key"))))
        if rng.random() < 0.1:
            fields.append((b"Content-Encoding", b"gzip"))
            body = gzip.compress(body, mtime=0)
        status = rng.choice(_STATUSES)
        if asked.values(b"if-none-match") and rng.random() < 0.7:
            status = 304
        head = b"HTTP/1.1 %d Whatever\r\n" % status + b"".join([b"%b: %b\r\n" % field for field in fields])
        if rng.random() < 0.1:
            head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + head
        framing, closes = rng.choice(["length", "length", "chunks", "close"]), (b"Connection", b"close") in fields
        if status in (204, 304):
            return head + b"\r\n", closes
        if asked.method == b"HEAD" or framing == "length":
            sent = b"" if asked.method == b"HEAD" else body
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + sent, closes
        if framing == "chunks":
            return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), closes
        return head + b"\r\n" + body, True

    async def script(connection: ScriptedConnection) -> None:
        closes = False
        while not closes:
            sent, closes = answer(await connection.read_request())
            await connection.send(sent)

    return script


def _stable(fields: Sequence[tuple[bytes, bytes]], own_id: bytes) -> Fields:
    return sorted(
        (name.lower(), b"" if name.lower() in _UNSTABLE else _DIFFERS.sub(b"-", value.replace(own_id, b"-")))
        for name, value in fields
        if name.lower() != b"age"
    )


def _seen(asked: Asked, answer: Answer, served: Served, sent: Sequence[RecordedRequest]) -> tuple[Any, ...]:
    """Everything about an exchange that has to be the same."""
    exchange = served.exchanges[-1]
    own_id = exchange.request_id.encode("ascii")
    return (
        asked,
        (answer.status, _stable(answer.fields, own_id), answer.body.replace(own_id, b"-")),
        (answer.complete, answer.keeps_alive),
        [(each.method, each.target, _stable(each.fields, own_id)) for each in sent],
        (exchange.user, exchange.client, exchange.scheme, exchange.status, exchange.outcome, exchange.body_bytes_out),
        (exchange.cache, exchange.cache_detail.replace(exchange.request_id, "-"), exchange.upstream),
        [(attempt.outcome, attempt.status) for attempt in exchange.attempts],
    )


async def conversation(seed: int, server: str, *, short: bool) -> tuple[list[tuple[Any, ...]], int]:
    """What was seen of each exchange, and how many of them took the short way."""
    rng = Random(seed)
    config, requests = random_config(rng), random_requests(rng, 40)
    seen: list[tuple[Any, ...]] = []
    async with (
        ScriptedUpstream(random_origin(seed)) as upstream,
        serving(config(upstream.url), server=server) as served,
    ):
        if not short:
            close_short_ways(served)
        ways = Ways(served)
        clients: dict[int, Client] = {}
        known: set[int] = set()
        for asked in requests:
            number, method, target, host, fields = asked
            client = clients.get(number) or await served.connect()
            clients[number] = client
            raw = request(method, target, fields, body=b"b" if method == "POST" else None)
            client.write(raw.replace(b"Host: example.com", b"Host: " + host))
            answer = await client.answer(method)
            await served.ended(len(seen) + 1)
            sent = [each for each in upstream.requests if id(each) not in known]
            known.update(map(id, sent))
            seen.append(_seen(asked, answer, served, sent))
            if not (answer.complete and answer.keeps_alive):
                await clients.pop(number).close()
        for client in clients.values():
            await client.close()
        await served.at_rest()
        assert served.gateway.runtime.in_flight_on("all").count == 0
        return seen, ways.short


def _without_stored(seen: tuple[Any, ...]) -> tuple[Any, ...]:
    asked, (status, fields, body), *rest = seen
    return (asked, (status, [(name, re.sub(rb"; stored-?", b"", value)) for name, value in fields], body), *rest)


async def compare(seeds: range, server: str) -> int:
    """How many exchanges took the short way; fails where it made a difference."""
    count = 0
    for seed in seeds:
        long, _ = await conversation(seed, server, short=False)
        short, taken = await conversation(seed, server, short=True)
        for before, after in zip(long, short, strict=True):
            if before != after and _without_stored(before) == _without_stored(after):
                # What nobody could share until now is stored with the next answer: from here on the two have a
                # different store.
                break
            assert before == after, f"seed {seed}"
        count += taken
    return count


async def test_conversations_are_the_same_on_both_ways(server: str) -> None:
    assert await compare(range(12), server)


@pytest.mark.soak
async def test_many_conversations_are_the_same_on_both_ways(server: str) -> None:
    assert await compare(range(1000, 1400), server)
