"""The rules of a route as functions: what happens to answers, to requests on their way out, and to cache keys."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.types import Scope

from gateway.config.routes import RouteConfig
from gateway.config.upstreams import UpstreamConfig
from gateway.exchange import Exchange, ResponseRule
from gateway.http.cookies import CookieRewrite
from gateway.http.fields import Fields
from gateway.http.forwarded import forwarding_fields, via_value
from gateway.http.header_rules import HeaderRules
from gateway.http.location import upstream_authorities
from gateway.middleware.cookies import make_cookies_rule
from gateway.middleware.cors import CorsRule
from gateway.middleware.headers import make_headers_rule, make_request_rule
from gateway.middleware.location import make_location_rule
from gateway.middleware.security_headers import make_security_headers_rule
from gateway.proxy.outbound import FieldsMaker, FieldsRule
from gateway.routes import target_rewrite


def response_rules(config: RouteConfig) -> Iterator[ResponseRule]:
    """What happens to every answer of a route, in order."""
    if config.security_headers is not None:
        yield make_security_headers_rule(**config.security_headers.model_dump())
    if config.cors is not None:
        cors = config.cors
        yield CorsRule(origins=cors.origins, expose=cors.expose, credentials=cors.credentials)
    rules = config.response_headers
    if rules.set or rules.add or rules.remove:
        yield make_headers_rule(HeaderRules(set=rules.set, add=rules.add, remove=rules.remove))


def answer_rules(config: RouteConfig, upstream: UpstreamConfig) -> Iterator[ResponseRule]:
    """What happens to the answers of one upstream before anything stores them."""
    # Endpoints with different base paths: a reference is mapped back by the first that knows its path.
    bases = dict.fromkeys(endpoint.base_path for endpoint in upstream.endpoints)
    rewrites = [target_rewrite(config, base.encode("ascii")) for base in bases]

    def public_path(path: bytes) -> bytes | None:
        return next((public for rewrite in rewrites if (public := rewrite.public_path(path)) is not None), None)

    urls = [endpoint.url for endpoint in upstream.endpoints if endpoint.scheme in ("http", "https")]
    authorities = upstream_authorities([*urls, "http://localhost"] if len(urls) < len(upstream.endpoints) else urls)
    if config.rewrite_location:
        yield make_location_rule(authorities, public_path)
    cookies = config.rewrite_cookies
    hosts = [endpoint.host for endpoint in upstream.endpoints]
    yield make_cookies_rule(
        CookieRewrite(
            domain=cookies.domain,
            path=cookies.path,
            secure=cookies.secure,
            same_site=cookies.same_site,
            upstream_hosts=hosts,
            public_path=public_path if config.rewrite_location else None,
        )
    )


def request_rule(config: RouteConfig) -> FieldsRule | None:
    """What happens to the fields of a route's requests on their way out; None for nothing."""
    rules = config.request_headers
    if not (rules.set or rules.add or rules.remove):
        return None
    return make_request_rule(HeaderRules(set=rules.set, add=rules.add, remove=rules.remove))


def added_fields(*, pseudonym: str, request_id_header: str) -> FieldsMaker:
    """Makes the fields that every request gets on its way out."""
    request_id_name = request_id_header.lower().encode("ascii")

    def added(scope: Scope, exchange: Exchange) -> Fields:
        return [
            *forwarding_fields(exchange.chain, exchange.peer, exchange.public_host, exchange.scheme),
            (b"via", via_value(scope["http_version"], pseudonym)),
            (request_id_name, exchange.request_id.encode("ascii")),
        ]

    return added


def hidden_names(config: RouteConfig) -> frozenset[bytes]:
    """Fields of upstreams' answers that clients do not see."""
    return frozenset(name.lower().encode("ascii") for name in config.hide_headers)


def per_client_fields(config: RouteConfig, request_id_header: str) -> list[str]:
    """The request fields that say something else for each client and that no client sends so.

    The public scheme, Host and target are not among them: they are part of the cache key.
    """
    rules = config.request_headers
    made = [name for values in (rules.set, rules.add) for name, value in values.items() if _is_per_client(value)]
    return ["x-forwarded-for", "x-real-ip", "forwarded", *filter(None, [request_id_header]), *made]


def _is_per_client(value: str) -> bool:
    return "{client_ip}" in value or "{request_id}" in value
