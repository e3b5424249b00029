"""Which routes have a short way, and which lane that is."""

from __future__ import annotations

from gateway.config.routes import RouteConfig
from gateway.config.upstreams import UpstreamConfig
from gateway.exchange import ResponseRule
from gateway.express.fields import Compression, PlainFields, are_left_alone
from gateway.express.proxied import ProxiedLane
from gateway.express.stored import StoredLane
from gateway.express.table import Lane
from gateway.http.header_rules import HeaderRules
from gateway.middleware.cache import CacheMiddleware
from gateway.proxy.outbound import Outbound
from gateway.proxy.retry import conditions
from gateway.upstream.pool import Upstream
from gateway.wiring.rules import answer_rules, hidden_names

# What a request's fields may hold beside constants: the same for all requests with one header section, but for the id.
_KNOWN_AHEAD = frozenset(["client_ip", "host", "request_id", "route", "scheme"])
_SAME_FOR_ALL = frozenset(["request_id", "route"])


def stored_lane(
    config: RouteConfig, cache: CacheMiddleware, response_rules: tuple[ResponseRule, ...], request_id_name: bytes
) -> Lane | None:
    """The lane of a route whose outermost layer is ``cache``."""
    own = [name for name in (request_id_name, b"age", b"cache-status") if name]
    if not _are_rules_plain(config, response_rules, own):
        return None
    return StoredLane(config.name, cache, response_rules=response_rules, request_id_name=request_id_name)


def proxied_lane(
    config: RouteConfig,
    upstream: Upstream,
    upstream_config: UpstreamConfig,
    *,
    outbound: Outbound,
    compression: Compression | None,
    response_rules: tuple[ResponseRule, ...],
    request_id_name: bytes,
) -> Lane | None:
    """The lane of a route that nobody guards and that goes to one upstream."""
    own = [name for name in (request_id_name,) if name]
    headers = config.request_headers
    names = HeaderRules(set=headers.set, add=headers.add, remove=headers.remove).names
    if (
        config.mirror is not None
        or upstream.settings.sticky is not None
        or not names <= _KNOWN_AHEAD
        or not _are_rules_plain(config, response_rules, own)
    ):
        return None
    retry = config.retry
    return ProxiedLane(
        config.name,
        upstream,
        outbound=outbound,
        plain_fields=PlainFields(
            hidden=hidden_names(config),
            own=frozenset(own),
            answer_rules=tuple(answer_rules(config, upstream_config)),
            response_rules=response_rules,
            compression=compression,
        ),
        request_id_name=request_id_name,
        timeout_s=config.timeout,
        attempt_timeout_s=0.0 if retry is None else retry.attempt_timeout,
        idle_timeout_s=config.idle_timeout,
        retried=frozenset() if retry is None else conditions(retry.on),
        compression=compression,
        is_same_for_all=names <= _SAME_FOR_ALL,
    )


def _are_rules_plain(config: RouteConfig, response_rules: tuple[ResponseRule, ...], own: list[bytes]) -> bool:
    """Whether the rules for answers ask nothing of the request but its scheme, and leave ``own`` alone."""
    return config.cors is None and are_left_alone([*own, b"date"], response_rules)
