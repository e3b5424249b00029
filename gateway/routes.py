"""The routes of a configuration as a table, and what can be said of them without serving any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.config.document import Config
from gateway.config.policies import CacheConfig
from gateway.config.problems import KeyPath
from gateway.config.routes import RouteConfig, WhenConfig
from gateway.http.cache_key import KeyPolicy, QuerySetting
from gateway.http.target import TargetRewrite
from gateway.patterns import parse_host, parse_path
from gateway.router import RouteRule, RouteTable, When


def route_table(config: Config) -> RouteTable:
    """The table alone, for questions about it."""
    return RouteTable(route_rule(route, index) for index, route in enumerate(config.routes))


def table_warnings(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Routes that can never be taken, by their place in the file."""
    places = {route.name: index for index, route in enumerate(config.routes)}
    for rule, winner in route_table(config).shadowed():
        yield ("routes", places[rule.name]), f"the route {rule.name!r} is never taken: {winner.name!r} always wins"


def route_rule(config: RouteConfig, position: int, target: Any = None) -> RouteRule:
    """When ``config`` applies; ``target`` is what the table gives back."""
    return RouteRule(
        name=config.name,
        paths=tuple(map(parse_path, config.path)),
        hosts=tuple(map(parse_host, config.host)),
        methods=frozenset(config.methods) or None,
        when=_when(config.when),
        priority=config.priority,
        position=position,
        target=target,
    )


def target_rewrite(config: RouteConfig, base_path: bytes) -> TargetRewrite:
    """How a route's targets become those of an endpoint."""
    return TargetRewrite(
        base_path=base_path,
        strip_prefix=config.strip_prefix.encode("ascii"),
        add_prefix=config.add_prefix.encode("ascii"),
        rewrite=config.rewrite,
    )


def key_policy(name: str, cache: CacheConfig) -> KeyPolicy:
    """What of a request enters its key in the cache of the route ``name``."""
    return KeyPolicy(name, query=query_setting(cache), cookies=cache.cookies, vary=cache.vary)


def query_setting(cache: CacheConfig) -> QuerySetting:
    """Which query parameters enter the key, in the cache's own terms."""
    query = cache.query
    if isinstance(query, str):
        return query
    if query.only is not None:
        return {"only": query.only, "sort": query.sort}
    return {"except": query.except_ or (), "sort": query.sort}


def upstream_names(config: RouteConfig) -> list[str]:
    """The upstreams that a route may send requests to."""
    names = [config.upstream] if config.upstream is not None else [side.upstream for side in config.split]
    return [*names, config.mirror.upstream] if config.mirror is not None else names


def _when(when: WhenConfig) -> When:
    return When(
        header=tuple(when.header.items()),
        query=tuple(when.query.items()),
        cookie=tuple(when.cookie.items()),
        client=when.client,
    )
