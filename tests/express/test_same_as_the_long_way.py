"""Whatever way an exchange takes, both ends see the same."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.app import Gateway
from tests.express.support import last_exchange, second_exchange
from tests.support.gateway import UVICORN, proxying, request
from tests.support.upstream import ScriptedUpstream, chunked, respond, response

pytestmark = pytest.mark.anyio

JSON = (b"Content-Type", b"application/json")
DATE = (b"Date", formatdate(time.time(), usegmt=True).encode())

API_KEYS = {"api_key": {"keys": {"ada": "secret"}}}
KEY = (b"X-API-Key", b"secret")
# bcrypt of "blau", as weak as it can be made.
PASSWORD_HASH = "$2b$04$M561pRg/BQFL/EByOWIuaOs1pr8fjwoutRe87tGO3VCVo0feLdBEa"
PASSWORD = (b"Authorization", b"Basic " + b64encode(b"bob:blau"))
CORS = {"cors": {"origins": ["https://a.example"]}}
ORIGIN = (b"Origin", b"https://a.example")

FRESH = (b"Cache-Control", b"max-age=600")

PLAIN: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    # name: (keys of the route, the upstream's answer, the request)
    "plain": ({}, response(200, [JSON, DATE], b"hello"), request()),
    "no date": ({}, response(200, [JSON], b"hello"), request()),
    "empty body": ({}, response(200, [DATE], b""), request()),
    "404": ({}, response(404, [JSON, DATE], b"no"), request()),
    "unknown status": ({}, response(299, [DATE], b"x"), request()),
    "chunked": ({}, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c"), request()),
    "chunked and empty": ({}, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", request()),
    "hidden fields": ({}, response(200, [(b"Server", b"x"), (b"X-Powered-By", b"y"), DATE], b"a"), request()),
    "repeated fields": ({}, response(200, [(b"Link", b"<a>"), (b"Link", b"<b>"), DATE], b"a"), request()),
    "obs-text": ({}, response(200, [(b"X", b"\xe9\xff"), DATE], b"a"), request(fields=[(b"X", b"\xe9")])),
    "cookies": ({}, response(200, [(b"Set-Cookie", b"a=1; Path=/"), (b"Set-Cookie", b"b=2"), DATE], b"a"), request()),
    "query": ({}, response(200, [DATE], b"a"), request(target=b"/a%2Fb//c;d?x=1&x=%20+")),
    "empty query": ({}, response(200, [DATE], b"a"), request(target=b"/a?")),
    "prefixes": (
        {"path": "/shop/*", "strip_prefix": "/shop", "add_prefix": "/v1"},
        response(200, [DATE], b"a"),
        request(target=b"/shop/items?q=1"),
    ),
    "rewrite": (
        {"path": "/items/{id}", "rewrite": "/i/{id}/x"},
        response(200, [DATE], b"a"),
        request(target=b"/items/a%20b"),
    ),
    "security headers": ({"security_headers": True}, response(200, [DATE], b"a"), request()),
    "response headers": (
        {"response_headers": {"set": {"X-A": "1"}, "add": {"X-B": "2"}, "remove": ["X-C"]}},
        response(200, [DATE], b"a"),
        request(),
    ),
    "request headers": (
        {"request_headers": {"set": {"X-Who": "{client_ip} {host} {scheme} {route}", "X-Id": "{request_id}"}}},
        response(200, [DATE], b"a"),
        request(fields=[(b"X-Who", b"me")]),
    ),
    "host of the upstream": ({"host_header": "upstream"}, response(200, [DATE], b"a"), request()),
    "literal host": ({"host_header": "shop.internal"}, response(200, [DATE], b"a"), request()),
    "hop-by-hop fields": (
        {},
        response(200, [(b"Keep-Alive", b"timeout=9"), (b"Connection", b"keep-alive"), DATE], b"a"),
        request(fields=[(b"TE", b"trailers"), (b"Connection", b"TE, X-Mine"), (b"X-Mine", b"1"), (b"X_Y", b"2")]),
    ),
    "forged identity": (
        {},
        response(200, [DATE], b"a"),
        request(fields=[(b"X-Forwarded-For", b"1.2.3.4"), (b"Forwarded", b"for=1.2.3.4"), (b"X-Real-IP", b"1.2.3.4")]),
    ),
    "last on its connection": ({}, response(200, [DATE], b"a"), request()),
    "allow and deny": ({"allow": ["127.0.0.0/8"], "deny": ["10.0.0.0/8"]}, response(200, [DATE], b"a"), request()),
    "small and compressible": (
        {"compress": True},
        response(200, [JSON, DATE], b"hello"),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed": (
        {"compress": True},
        response(200, [JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressible, for a client that takes nothing": (
        {"compress": True},
        response(200, [JSON, DATE], b'{"a": 1}' * 500),
        request(),
    ),
    "fields that a coded body does not keep": (
        {"compress": True},
        response(
            200,
            [
                (b"ETag", b'"a"'),
                (b"Accept-Ranges", b"bytes"),
                (b"Content-MD5", b"x"),
                (b"Vary", b"Origin"),
                (b"Set-Cookie", b"a=1"),
                (b"Vary", b"Cookie"),
                JSON,
                DATE,
            ],
            b'{"a": 1}' * 500,
        ),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "not to be transformed": (
        {"compress": True},
        response(200, [(b"Cache-Control", b"public, No-Transform"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed, of unknown length": (
        {"compress": True},
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab" * 2000),
        request(fields=[(b"Accept-Encoding", b"br")]),
    ),
    "small, of unknown length": (
        {"compress": True},
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab" * 20),
        request(fields=[(b"Accept-Encoding", b"br")]),
    ),
    "two types, the first of which counts": (
        {"compress": True},
        response(200, [(b"Content-Type", b"image/png"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed, and a rule adds to Vary": (
        {"compress": True, "response_headers": {"add": {"Vary": "Cookie"}}},
        response(200, [JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "a hit, compressed": (
        {"compress": True, "cache": {"status_header": False}},
        response(
            200, [(b"Cache-Control", b"max-age=600"), (b"Vary", b"Accept-Language"), JSON, DATE], b'{"a": 1}' * 500
        ),
        request(fields=[(b"Accept-Encoding", b"gzip, br;q=0.5"), (b"Accept-Language", b"en, de")]),
    ),
    "large and not compressible": (
        {"compress": True},
        response(200, [(b"Content-Type", b"image/png"), DATE], b"x" * 5000),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "an encoded slash": (
        {"path": "/a/{rest*}"},
        response(200, [DATE], b"a"),
        request(target=b"/a/b%2Fc"),
    ),
    "exact retry conditions": ({"retry": {"on": ["connect", 500]}}, response(418, [DATE], b"a"), request()),
    "a field that a rule removes": (
        {"response_headers": {"remove": ["X-C"]}},
        response(200, [(b"X-C", b"1"), DATE], b"a"),
        request(),
    ),
    "a field that a rule sets": (
        {"response_headers": {"set": {"X-C": "2"}}},
        response(200, [(b"X-C", b"1"), (b"X-C", b"3"), DATE], b"a"),
        request(),
    ),
    "compressed, and a rule drops Cache-Control": (
        {"compress": True, "response_headers": {"set": {"Cache-Control": "no-store"}}},
        response(200, [(b"Cache-Control", b"max-age=9"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed, and a rule adds to a Vary of the upstream's": (
        {"compress": True, "response_headers": {"add": {"Vary": "X-Q"}}},
        response(200, [(b"Vary", b"Accept"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed, and a rule adds to a Vary that says all": (
        {"compress": True, "response_headers": {"add": {"Vary": "X-Q"}}},
        response(200, [(b"Vary", b"*"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "a bound on what runs": ({"max_concurrent": 5}, response(200, [DATE], b"a"), request()),
    "rate limit": ({"rate_limit": {"rate": "10/h", "burst": 5}}, response(200, [DATE], b"a"), request()),
    "rate limit, and the upstream has one too": (
        {"rate_limit": {"rate": "10/h", "burst": 5}},
        response(200, [(b"RateLimit", b'"theirs";r=1;t=1'), DATE], b"a"),
        request(),
    ),
    "rate limit by a field": (
        {"rate_limit": {"rate": "10/h", "burst": 5, "key": "header:X-Tenant"}},
        response(200, [DATE], b"a"),
        request(fields=[(b"X-Tenant", b"a"), (b"X-Tenant", b"b")]),
    ),
    "API key": ({"auth": API_KEYS}, response(200, [DATE], b"a"), request(fields=[KEY])),
    "API key that goes on": (
        {"auth": {**API_KEYS, "forward_credentials": True}},
        response(200, [DATE], b"a"),
        request(fields=[KEY]),
    ),
    "rate limit by user": (
        {"auth": API_KEYS, "rate_limit": {"rate": "10/h", "burst": 5, "key": "user"}},
        response(200, [DATE], b"a"),
        request(fields=[KEY]),
    ),
    "password": (
        {"auth": {"basic": {"users": {"bob": PASSWORD_HASH}}}},
        response(200, [DATE], b"a"),
        request(fields=[PASSWORD, (b"Cookie", b"a=1")]),
    ),
    "CORS": (CORS, response(200, [DATE], b"a"), request(fields=[ORIGIN])),
    "CORS without an origin": (CORS, response(200, [DATE], b"a"), request()),
    "CORS and another origin": (CORS, response(200, [DATE], b"a"), request(fields=[(b"Origin", b"https://b.example")])),
    "CORS and two origins": (CORS, response(200, [DATE], b"a"), request(fields=[ORIGIN, ORIGIN])),
    "CORS for all": ({"cors": {"origins": ["*"]}}, response(200, [DATE], b"a"), request(fields=[ORIGIN])),
    "CORS with credentials": (
        {"cors": {"origins": ["https://a.example.com"], "credentials": True, "expose": ["X-A"]}},
        response(200, [DATE], b"a"),
        request(fields=[(b"Origin", b"https://a.example.com")]),
    ),
    "CORS of the upstream's own": (
        CORS,
        response(200, [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Max-Age", b"5"), DATE], b"a"),
        request(fields=[ORIGIN]),
    ),
    "CORS and Vary": (CORS, response(200, [(b"Vary", b"Accept"), DATE], b"a"), request(fields=[ORIGIN])),
    "CORS and Vary that says so": (CORS, response(200, [(b"Vary", b"accept, origin"), DATE], b"a"), request()),
    "CORS and Vary that says all": (CORS, response(200, [(b"Vary", b"*"), DATE], b"a"), request()),
    "CORS and an empty Vary": (CORS, response(200, [(b"Vary", b""), DATE], b"a"), request()),
    "CORS and a rule that sets Vary": (
        {**CORS, "response_headers": {"set": {"Vary": "X-A"}}},
        response(200, [(b"Vary", b"Accept"), DATE], b"a"),
        request(fields=[ORIGIN]),
    ),
    "cached, and a cookie": (
        {"cache": True},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"Cookie", b"a=1")]),
    ),
    "cached, and a cookie, and the upstream has a cache too": (
        {"cache": True},
        response(404, [(b"Cache-Status", b"origin; hit"), FRESH, DATE], b"a"),
        request(fields=[(b"Cookie", b"a=1"), (b"Cache-Control", b"no-cache")]),
    ),
    "cached silently, and a cookie": (
        {"cache": {"status_header": False}},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"Cookie", b"a=1")]),
    ),
    "cached, and a cookie beside one of the key": (
        {"cache": {"cookies": ["lang"]}},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"Cookie", b"lang=en; a=1")]),
    ),
    "cached, and a validator": (
        {"cache": True},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"a"')]),
    ),
    "cached, and the client has it": (
        {"cache": True, "response_headers": {"set": {"X-Kind": "{scheme}", "Content-Language": "de"}}},
        response(200, [FRESH, JSON, (b"Vary", b"Accept"), (b"X-Kept", b"a"), (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"b", W/"a"')]),
    ),
    "cached, and the client has whatever there is": (
        {"cache": {"status_header": False}},
        response(200, [FRESH, (b"X-Request-ID", b"theirs"), DATE], b"a"),
        request(fields=[(b"If-None-Match", b"*"), (b"If-Modified-Since", b"Thu, 01 Jan 1970 00:00:00 GMT")]),
    ),
    "cached, and the client has another": (
        {"cache": True},
        response(200, [FRESH, (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"b"'), (b"If-Modified-Since", b"Fri, 01 Jan 2100 00:00:00 GMT")]),
    ),
    "cached, and the client has it since": (
        {"cache": True},
        response(200, [FRESH, (b"Last-Modified", b"Thu, 01 Jan 2015 00:00:00 GMT"), DATE], b"a"),
        request(fields=[(b"If-Modified-Since", b"Thu, 01 Jan 2015 00:00:00 GMT")]),
    ),
    "cached, coded, and the client has it": (
        {"cache": True, "compress": True, "security_headers": True},
        response(200, [FRESH, JSON, (b"ETag", b'"a"'), DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip"), (b"If-None-Match", b'W/"a"')]),
    ),
    "cached and guarded, and the client has it": (
        {"cache": True, "rate_limit": {"rate": "10/h", "burst": 5}, **CORS},
        response(200, [FRESH, (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[ORIGIN, (b"If-None-Match", b'"a"')]),
    ),
    "cached, not found, and the client has it": (
        {"cache": True},
        response(404, [FRESH, (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"a"')]),
    ),
    "cached, and not to be": ({"cache": True}, response(200, [(b"Cache-Control", b"no-store"), DATE], b"a"), request()),
    "cached, and not to be, and a validator": (
        {"cache": True},
        response(200, [(b"Cache-Control", b"no-store"), (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"a"')]),
    ),
    "cached, and private": (
        {"cache": {"tags_header": "X-Tags"}, "hide_headers": ["X-Tags"]},
        response(200, [(b"Cache-Control", b"private, max-age=9"), (b"Age", b"3"), (b"X-Tags", b"a"), DATE], b"a"),
        request(),
    ),
    "cached, and a cookie comes": (
        {"cache": True, "rewrite_cookies": {"path": {"/a": "/b"}}},
        response(200, [FRESH, (b"Set-Cookie", b"a=1; Path=/a"), DATE], b"a"),
        request(),
    ),
    "cached, and not for those who are known": (
        {"cache": True, "auth": API_KEYS, "rate_limit": {"rate": "10/h", "burst": 5}, "max_concurrent": 1},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[KEY]),
    ),
    "cached silently, and not to be": (
        {"cache": {"status_header": False}},
        response(404, [(b"Cache-Control", b"no-store"), DATE], b"a"),
        request(),
    ),
    "cached, and a precondition": (
        {"cache": True},
        response(412, [DATE], b"no"),
        request(fields=[(b"If-Match", b'"a"')]),
    ),
    "cached, and another method in a field": (
        {"cache": True},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"X-HTTP-Method-Override", b"DELETE")]),
    ),
    "cached and guarded, and a cookie": (
        {"cache": True, "auth": API_KEYS, "rate_limit": {"rate": "10/h", "burst": 5}, "max_concurrent": 2, **CORS},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[KEY, ORIGIN, (b"Cookie", b"a=1")]),
    ),
    "everything that guards": (
        {
            "auth": API_KEYS,
            "rate_limit": {"rate": "10/h", "burst": 5},
            "max_concurrent": 2,
            "allow": ["127.0.0.0/8"],
            "security_headers": True,
            **CORS,
        },
        response(200, [(b"Vary", b"Accept"), JSON, DATE], b"a"),
        request(fields=[KEY, ORIGIN, (b"X-Forwarded-User", b"root")]),
    ),
    "cached, a cookie, and coded": (
        {"cache": True, "compress": True},
        response(200, [(b"Cache-Control", b"max-age=60"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Cookie", b"a=1"), (b"Accept-Encoding", b"gzip")]),
    ),
}

# They need work on their way, or somebody to be asked: begun on the short way or not, they end on the long one.
LONG: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    "compressed, and a rule sets Vary": (
        {"compress": True, "response_headers": {"set": {"Vary": "Cookie"}}},
        response(200, [JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "not to be transformed, and a rule drops what says so": (
        {"compress": True, "response_headers": {"set": {"Cache-Control": "no-store"}}},
        response(200, [(b"Cache-Control", b"max-age=9, No-Transform"), JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "compressed in a thread": (
        {"compress": {"codings": ["br"], "level": "best"}},
        response(200, [JSON, DATE], b'{"a": 1}' * 4600),
        request(fields=[(b"Accept-Encoding", b"br")]),
    ),
    "coded by the upstream": (
        {"compress": True},
        response(200, [(b"Content-Encoding", b"gzip"), JSON, DATE], b"\x1f\x8bwhatever"),
        request(fields=[(b"Accept-Encoding", b"gzip")]),
    ),
    "weak tag": (
        {"compress": True},
        response(200, [(b"ETag", b'"a"'), JSON, DATE], b"hello"),
        request(fields=[(b"If-None-Match", b'W/"a"')]),
    ),
    "204": ({}, b"HTTP/1.1 204 No Content\r\n\r\n", request()),
    "304": (
        {},
        b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
        request(fields=[(b"If-None-Match", b'"a"')]),
    ),
    "location": ({}, response(302, [(b"Location", b"/elsewhere"), DATE], b""), request()),
    "fields that Connection names": (
        {},
        response(200, [(b"Connection", b"X-Mine"), (b"X-Mine", b"1"), DATE], b"a"),
        request(),
    ),
    "security headers of the upstream's own, beside one that is 0": (
        {"security_headers": {"hsts": "", "content_type_options": "0"}},
        response(200, [(b"X-Content-Type-Options", b"nosniff"), DATE], b"a"),
        request(),
    ),
    "security headers of the upstream's own": (
        {"security_headers": True},
        response(200, [(b"X-Frame-Options", b"SAMEORIGIN"), DATE], b"a"),
        request(),
    ),
    "503": ({"retry": False}, response(503, [DATE], b"busy"), request()),
    "names of the path in a field": (
        {"path": "/items/{id}", "request_headers": {"set": {"X-Item": "{id}"}}},
        response(200, [DATE], b"a"),
        request(target=b"/items/7"),
    ),
    "CORS and two Vary": (CORS, response(200, [(b"Vary", b"A"), (b"Vary", b"B"), DATE], b"a"), request()),
    "cached, a cookie, and nothing but what is stored": (
        {"cache": True},
        response(200, [FRESH, DATE], b"a"),
        request(fields=[(b"Cookie", b"a=1"), (b"Cache-Control", b"Only-If-Cached")]),
    ),
    "cached, a cookie, and work on its way": (
        {"cache": True},
        response(302, [FRESH, (b"Location", b"/elsewhere"), DATE], b""),
        request(fields=[(b"Cookie", b"a=1")]),
    ),
    "cached, and not to be without being asked": (
        {"cache": True},
        response(200, [(b"Cache-Control", b"no-cache"), (b"ETag", b'"a"'), DATE], b"a"),
        request(),
    ),
    "cached, and nothing to be, when it is not well": (
        {"cache": True, "retry": False},
        response(503, [(b"Cache-Control", b"no-store"), DATE], b"a"),
        request(),
    ),
    "cached, and not to be, and the client has it": (
        {"cache": True},
        response(304, [(b"Cache-Control", b"no-store"), (b"ETag", b'"a"'), DATE]),
        request(fields=[(b"If-None-Match", b'"a"')]),
    ),
    "cached, and a part of what the client has": (
        {"cache": True},
        response(200, [FRESH, (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"a"'), (b"Range", b"bytes=0-0")]),
    ),
    "cached, and a validator that is to be asked about": (
        {"cache": True},
        response(200, [FRESH, (b"ETag", b'"a"'), DATE], b"a"),
        request(fields=[(b"If-None-Match", b'"a"'), (b"Cache-Control", b"max-age=0")]),
    ),
    "preflight": (
        CORS,
        response(200, [DATE], b"a"),
        request("OPTIONS", fields=[ORIGIN, (b"Access-Control-Request-Method", b"GET")]),
    ),
    "a rule that changes what a limit says": (
        {"rate_limit": {"rate": "10/h", "burst": 5}, "response_headers": {"remove": ["RateLimit"]}},
        response(200, [DATE], b"a"),
        request(),
    ),
    "beyond the rate": ({"rate_limit": {"rate": "1/h", "burst": 1}}, response(200, [DATE], b"a"), request()),
    "no API key": ({"auth": API_KEYS}, response(200, [DATE], b"a"), request()),
    "wrong API key": ({"auth": API_KEYS}, response(200, [DATE], b"a"), request(fields=[(b"X-API-Key", b"x")])),
    "two API keys": ({"auth": API_KEYS}, response(200, [DATE], b"a"), request(fields=[KEY, KEY])),
    "wrong password": (
        {"auth": {"basic": {"users": {"bob": PASSWORD_HASH}}}, "rate_limit": {"rate": "10/h", "burst": 5}},
        response(200, [DATE], b"a"),
        request(fields=[(b"Authorization", b"Basic " + b64encode(b"bob:rot"))]),
    ),
    "guarded, and needs work on its way": (
        {"auth": API_KEYS, "rate_limit": {"rate": "10/h", "burst": 5}, "max_concurrent": 1, "compress": True, **CORS},
        response(200, [JSON, DATE], b'{"a": 1}' * 500),
        request(fields=[KEY, ORIGIN, (b"Accept-Encoding", b"gzip")]),
    ),
    "guarded, and the upstream is not well": (
        {"auth": API_KEYS, "rate_limit": {"rate": "10/h", "burst": 5}, "max_concurrent": 1, "retry": False},
        response(503, [DATE], b"busy"),
        request(fields=[KEY]),
    ),
    "allow, and this client is not": ({"allow": ["10.0.0.0/8"]}, response(200, [DATE], b"a"), request()),
    "deny": ({"deny": ["127.0.0.1/32"]}, response(200, [DATE], b"a"), request()),
    "POST": ({}, response(200, [DATE], b"a"), request("POST", body=b"hello")),
    "no route": ({"path": "/only"}, response(200, [DATE], b"a"), request(target=b"/other")),
}
BOTH = {**PLAIN, **LONG}


async def _both(
    route: dict[str, Any],
    raw_answer: bytes,
    raw: bytes,
    server: str,
    mounted: Callable[[Gateway], ASGIApp] | None = None,
) -> tuple[Any, Any]:
    async with ScriptedUpstream(respond(raw_answer)) as upstream:
        config = proxying(upstream.url, **route)
        long = await second_exchange(config, upstream, raw, server=server, mounted=mounted, short=False)
        short = await second_exchange(config, upstream, raw, server=server, mounted=mounted, short=True)
    return long, short


@pytest.mark.parametrize("name", sorted(BOTH))
async def test_both_ends_see_the_same(name: str, server: str) -> None:
    long, short = await _both(*BOTH[name], server)
    assert not long.was_short
    assert short.was_short == (name in PLAIN)
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)


def traced(raw: bytes, number: int) -> bytes:
    """The request with a field that is new in each."""
    return raw.replace(b"\r\n\r\n", b"\r\nX-Trace: %d%%b\r\n\r\n" % number, 1)


@pytest.mark.parametrize("name", sorted(BOTH))
async def test_both_ends_see_the_same_when_only_the_names_of_the_fields_come_again(name: str, server: str) -> None:
    route, raw_answer, raw = BOTH[name]
    raws = [traced(raw, number) for number in range(4)]
    async with ScriptedUpstream(respond(raw_answer)) as upstream:
        config = proxying(upstream.url, **route)
        long = await last_exchange(config, upstream, raws, server=server, short=False)
        short = await last_exchange(config, upstream, raws, server=server, short=True)
    assert short.was_short == (name in PLAIN)
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)
    if long.asked[0]:
        assert (b"x-trace", b"3%b") in long.asked[2]


ACCEPTED = [
    b"",
    b"gzip",
    b"br",
    b"zstd",
    b"gzip, deflate, br, zstd",
    b"gzip;q=0.5, br;q=0.9",
    b"*",
    b"*;q=0",
    b"gzip;q=0, *",
    b"identity;q=0, gzip",
    b"identity;q=0",
    b"deflate",
    b"x-gzip",
    b"GZIP",
    b"gzip;q=junk",
]


@pytest.mark.parametrize("level", ["fast", "balanced", "best"])
async def test_every_answer_to_accept_encoding_is_the_same(level: str, server: str) -> None:
    answer = response(200, [(b"ETag", b'"a"'), JSON, DATE], b'{"a": 1, "b": [true, null]}' * 200)
    for accept in ACCEPTED:
        fields = [(b"Accept-Encoding", accept)]
        long, short = await _both({"compress": {"level": level}}, answer, request(fields=fields), server)
        assert short.was_short, accept
        assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded), accept


# Other applications between the gateway and a server that is not its own.


def behind_middleware(gateway: Gateway) -> ASGIApp:
    """Somebody looks at the messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def passed(message: Message) -> None:
            await send(message)

        await gateway(scope, receive, passed)

    return app


def under_a_prefix(gateway: Gateway) -> ASGIApp:
    return Starlette(routes=[Mount("/api", gateway)], lifespan=gateway.lifespan)


@pytest.mark.parametrize("name", sorted(BOTH))
async def test_both_ends_see_the_same_through_messages(name: str) -> None:
    long, short = await _both(*BOTH[name], UVICORN, behind_middleware)
    assert short.was_short == (name in PLAIN)
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)


@pytest.mark.parametrize("name", sorted(BOTH))
async def test_both_ends_see_the_same_under_a_prefix(name: str) -> None:
    route, raw_answer, raw = BOTH[name]
    long, short = await _both(route, raw_answer, raw.replace(b" /", b" /api/", 1), UVICORN, under_a_prefix)
    # What becomes of a cookie depends on the prefix.
    assert short.was_short == (name in PLAIN and b"set-cookie" not in raw_answer.lower())
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)


@pytest.mark.parametrize("trusted", [[], ["127.0.0.0/8"]], ids=["peer", "proxy"])
async def test_who_the_client_is_is_told_the_same(trusted: list[str], server: str) -> None:
    fields = [(b"X-Forwarded-For", b"203.0.113.7"), (b"X-Forwarded-Proto", b"https"), (b"X-Request-ID", b"theirs")]
    raw = request(fields=fields)
    async with ScriptedUpstream(respond(response(200, [DATE], b"a"))) as upstream:
        config = proxying(upstream.url, server={"trusted_proxies": trusted, "via": "gw-test"}, security_headers=True)
        long = await second_exchange(config, upstream, raw, server=server, short=False)
        short = await second_exchange(config, upstream, raw, server=server, short=True)
    assert short.was_short
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)
    hsts = [value for name, value in short.answered[1] if name == b"strict-transport-security"]
    assert bool(hsts) == bool(trusted)


_NAMES = st.sampled_from(
    [
        b"Accept",
        b"Cookie",
        b"Connection",
        b"X-A",
        b"X_B",
        b"TE",
        b"Upgrade",
        b"Via",
        b"Referer",
        b"Keep-Alive",
        b"Forwarded",
        b"Accept-Encoding",
    ]
)
_VALUES = st.sampled_from(
    [
        b"",
        b"a",
        b"gzip",
        b"br;q=0.5, *;q=0",
        b"trailers",
        b"keep-alive",
        b"X-A",
        b"close",
        b'"q, r"',
        b"\xff",
        b"1.0 other",
    ]
)
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=5)
_ANSWER_NAMES = st.sampled_from(
    [
        b"Content-Type",
        b"Set-Cookie",
        b"X-A",
        b"Server",
        b"Vary",
        b"Connection",
        b"Keep-Alive",
        b"ETag",
        b"Location",
        b"Date",
        b"Accept-Ranges",
        b"Cache-Control",
    ]
)
_ANSWER_VALUES = st.sampled_from(
    [
        b"",
        b"text/html",
        b"*",
        b"no-transform",
        b'"a"',
        b"a=1; Domain=127.0.0.1",
        b"keep-alive",
        b"X-A",
        b"/x",
        b'W/"a"',
        b"\xff",
    ]
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=_FIELDS,
    answer=st.lists(st.tuples(_ANSWER_NAMES, _ANSWER_VALUES), max_size=5),
    size=st.sampled_from([0, 3, 2000]),
)
def test_any_fields_are_treated_the_same(fields: Any, answer: Any, size: int) -> None:
    import asyncio

    if any(name == b"Date" for name, _ in answer):
        answer = [*[field for field in answer if field[0] != b"Date"], DATE]
    # A client that closes cannot ask twice.
    fields = [field for field in fields if field != (b"Connection", b"close") and field[0] != b"Upgrade"]
    raw = request(fields=fields)
    route = {"compress": True, "security_headers": True}
    long, short = asyncio.run(_both(route, response(200, answer, b"x" * size), raw, "gateway"))
    assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)


@pytest.mark.parametrize("trusted", [[], ["127.0.0.0/8"]], ids=["peer", "proxy"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections=st.lists(_NAMES, max_size=5).flatmap(
        lambda names: st.lists(st.tuples(*[_VALUES for _ in names]), min_size=5, max_size=5).map(
            lambda rows: [list(zip(names, row, strict=True)) for row in rows]
        )
    )
)
def test_any_values_of_the_same_fields_are_treated_the_same(trusted: list[str], sections: Any) -> None:
    import asyncio

    sections = [
        [field for field in fields if field != (b"Connection", b"close") and field[0] != b"Upgrade"]
        for fields in sections
    ]
    raws = [
        request(fields=[*fields, (b"X-Forwarded-For", b"203.0.113.%d" % number)], host=b"host-%d" % (number % 3))
        for number, fields in enumerate(sections)
    ]

    async def both() -> None:
        async with ScriptedUpstream(respond(response(200, [DATE], b"a"))) as upstream:
            config = proxying(upstream.url, server={"trusted_proxies": trusted, "via": "gw-test"})
            long = await last_exchange(config, upstream, raws, short=False)
            short = await last_exchange(config, upstream, raws, short=True)
        assert (short.asked, short.answered, short.recorded) == (long.asked, long.answered, long.recorded)

    asyncio.run(both())
