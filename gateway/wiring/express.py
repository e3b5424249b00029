"""Which routes have a short way, and which lane that is."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.routes import RouteConfig
from gateway.config.upstreams import UpstreamConfig
from gateway.exchange import ResponseRule
from gateway.express.fields import PlainFields, are_left_alone
from gateway.express.proxied import ProxiedLane
from gateway.express.shared import SharedLane
from gateway.express.stored import StoredLane
from gateway.express.table import Lane
from gateway.http.fields import Fields
from gateway.http.header_rules import HeaderRules
from gateway.middleware.cache import CacheMiddleware
from gateway.middleware.compression import CompressionMiddleware
from gateway.middleware.cors import CorsRule
from gateway.proxy.outbound import Outbound
from gateway.proxy.retry import conditions
from gateway.recent import Recent
from gateway.upstream.pool import Upstream
from gateway.wiring.rules import answer_rules, hidden_names

# What a request's fields may hold beside constants: the same for all requests with one header section, but for the id.
_KNOWN_AHEAD = frozenset(["client_ip", "host", "request_id", "route", "scheme"])
_SAME_FOR_ALL = frozenset(["request_id", "route"])


def stored_lane(
    config: RouteConfig,
    cache: CacheMiddleware,
    past: ProxiedLane | None,
    response_rules: tuple[ResponseRule, ...],
    request_id_name: bytes,
) -> Lane | None:
    """The lane of a route whose outermost layer behind its guards is ``cache``; ``past`` is that of what is behind."""
    if not _leave_own_alone(response_rules, config, request_id_name, b"age", b"cache-status"):
        return None
    return StoredLane(config.name, cache, response_rules=response_rules, request_id_name=request_id_name, past=past)


def proxied_lane(
    config: RouteConfig,
    upstream: Upstream,
    upstream_config: UpstreamConfig,
    *,
    outbound: Outbound,
    compression: CompressionMiddleware | None,
    response_rules: tuple[ResponseRule, ...],
    request_id_name: bytes,
    recent: Recent,
) -> ProxiedLane | None:
    """The lane of a route that goes to one upstream, behind its guards."""
    sticky = () if upstream.settings.sticky is None else (b"set-cookie",)
    headers = config.request_headers
    names = HeaderRules(set=headers.set, add=headers.add, remove=headers.remove).names
    if (
        config.mirror is not None
        or not names <= _KNOWN_AHEAD
        or not _leave_own_alone(response_rules, config, request_id_name, *sticky)
    ):
        return None
    retry = config.retry
    return ProxiedLane(
        config.name,
        upstream,
        outbound=outbound,
        plain_fields=PlainFields(
            hidden=hidden_names(config),
            own=frozenset(filter(None, [request_id_name])),
            answer_rules=tuple(answer_rules(config, upstream_config)),
            response_rules=response_rules,
            coding_rule=None if compression is None else compression.rule,
            recent=recent,
        ),
        request_id_name=request_id_name,
        timeout_s=config.timeout,
        attempt_timeout_s=0.0 if retry is None else retry.attempt_timeout,
        idle_timeout_s=config.idle_timeout,
        retried=frozenset() if retry is None else conditions(retry.on),
        compression=compression,
        is_same_for_all=names <= _SAME_FOR_ALL,
    )


def shared_lane(
    config: RouteConfig,
    response_rules: tuple[ResponseRule, ...],
    make: Callable[[tuple[ResponseRule, ...]], Lane | None],
) -> Lane | None:
    """The lane that ``make`` makes for these rules; on a route with CORS one for each thing that they may say."""
    rule = next((rule for rule in response_rules if isinstance(rule, CorsRule)), None)
    if rule is None:
        return make(response_rules)

    def make_for(granted: Fields) -> Lane | None:
        return make(tuple(rule.saying(granted) if other is rule else other for other in response_rules))

    return SharedLane(config.name, rule, make_for) if make_for([]) is not None else None


def _leave_own_alone(rules: tuple[ResponseRule, ...], config: RouteConfig, request_id_name: bytes, *own: bytes) -> bool:
    """Whether the rules for answers leave alone what comes into a head without being shown to them."""
    limit = () if config.rate_limit is None else (b"ratelimit-policy", b"ratelimit")
    return are_left_alone([*filter(None, [request_id_name]), *own, *limit, b"date"], rules)
