"""Routes and upstreams as plain data and as a table for people: what ``gateway routes`` shows. Secrets never do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.config.document import Config
from gateway.config.routes import RouteConfig
from gateway.config.units import format_size
from gateway.config.upstreams import EndpointConfig
from gateway.routes import upstream_names

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_CONDITIONS_AND_ACTIONS = (
    *("name", "host", "path", "methods", "when", "priority"),
    *("upstream", "split", "split_on", "redirect", "respond"),
)
_FORWARDING = frozenset(
    (
        *("strip_prefix", "add_prefix", "rewrite", "host_header", "timeout", "idle_timeout", "max_body"),
        *("buffer_request", "retry", "websocket", "mirror", "compress", "decompress_request", "request_headers"),
        *("hide_headers", "rewrite_location", "rewrite_cookies"),
    )
)
"""What changes nothing where the gateway answers by itself."""

_SWITCHES = ("compress", "cache", "websocket", "retry", "security_headers")
_ON_BY_DEFAULT = frozenset(["compress", "websocket", "retry"])


def describe_routes(config: Config, names: Sequence[str]) -> list[dict[str, Any]]:
    """The routes of these names, each with the upstreams that it uses."""
    by_name = {route.name: route for route in config.routes}
    return [
        {**describe_route(config, by_name[name]), "upstreams": describe_upstreams(config, by_name[name])}
        for name in names
    ]


def describe_route(config: Config, route: RouteConfig) -> dict[str, Any]:
    """Conditions, action and policies of a route."""
    return {
        "name": route.name,
        "host": list(route.host) or ["*"],
        "path": list(route.path),
        "methods": list(route.methods) or ["*"],
        "when": _conditions(route),
        "priority": route.priority,
        "action": _action(route),
        "policies": policies(config, route),
    }


def describe_upstreams(config: Config, route: RouteConfig) -> dict[str, Any]:
    """The upstreams that a route may send requests to, by name."""
    found = {}
    for name in upstream_names(route):
        upstream = config.upstreams[name]
        options = upstream.model_dump(mode="json", exclude={"endpoints", "balance"}, exclude_defaults=True)
        if upstream.health is not None:
            options["health"] = upstream.health.model_dump(mode="json", include={"path", "interval"})
        if upstream.outlier is None:
            options["outlier"] = False
        endpoints = [
            {"url": endpoint.url, "weight": endpoint.weight, "note": endpoint_note(endpoint)}
            for endpoint in upstream.endpoints
        ]
        found[name] = {"balance": upstream.balance, "endpoints": endpoints, "options": options}
    return found


def endpoint_note(endpoint: EndpointConfig) -> str:
    """What keeps an endpoint from its share of the requests; empty for most."""
    if endpoint.drain:
        return "drains: no new requests"
    if not endpoint.weight:
        return "weight 0: no requests"
    return "backup" if endpoint.backup else ""


def policies(config: Config, route: RouteConfig) -> dict[str, Any]:
    """What is applied to a route, by the keys of the file; a switch that is off by default shows only when it is on.

    Values of request headers may be credentials of the gateway, arguments of middleware anything: their names show, no
    more.
    """
    shown = route.model_dump(
        mode="json", exclude={*_CONDITIONS_AND_ACTIONS, "auth", "middleware"}, exclude_defaults=True, by_alias=True
    )
    for name in _SWITCHES:
        value = getattr(route, name)
        if value is None:
            shown.pop(name, None)
            if name in _ON_BY_DEFAULT:
                shown[name] = False
        elif not shown.get(name):
            shown[name] = True
    if shown.get("max_body") == format_size(config.server.limits.max_body):
        del shown["max_body"]
    if "request_headers" in shown:
        rules = shown["request_headers"]
        shown["request_headers"] = {kind: list(rules[kind]) for kind in rules}
    if route.rate_limit is not None:
        # The URL of its store may hold a password.
        store = "memory" if route.rate_limit.store == "memory" else "redis"
        shown["rate_limit"] = {**route.rate_limit.model_dump(mode="json", exclude={"store"}), "store": store}
    if route.middleware:
        shown["middleware"] = [middleware.use for middleware in route.middleware]
    if route.auth is not None:
        # Only which way: users, keys and the addresses of those who decide are nobody's business here.
        shown["auth"] = next(name for name in ("basic", "api_key", "jwt", "forward") if getattr(route.auth, name))
    if route.action not in ("upstream", "split"):
        shown = {name: value for name, value in shown.items() if name not in _FORWARDING}
    return shown


def routes_view(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What ``describe_routes`` gives as tables for people; policies that are on by default are left out."""
    from rich.console import Group
    from rich.text import Text

    table = _table("route", "methods", "host", "path", "action", "policies")
    for entry in entries:
        conditions = "".join(f" when {condition}" for condition in entry["when"])
        priority = f" priority {entry['priority']}" if entry["priority"] else ""
        notable = {
            name: value for name, value in entry["policies"].items() if value is not True or name not in _ON_BY_DEFAULT
        }
        row = (
            entry["name"],
            ",".join(entry["methods"]),
            " ".join(entry["host"]),
            " ".join(entry["path"]) + conditions + priority,
            entry["action"],
            shown_policies(notable),
        )
        table.add_row(*map(Text, row))
    upstreams = {name: upstream for entry in entries for name, upstream in entry["upstreams"].items()}
    if not upstreams:
        return table
    below = _table("upstream", "balance", "endpoints", "options")
    for name in sorted(upstreams):
        upstream = upstreams[name]
        endpoints = " ".join(_shown_endpoint(endpoint) for endpoint in upstream["endpoints"])
        below.add_row(*map(Text, (name, upstream["balance"], endpoints, shown_policies(upstream["options"]))))
    return Group(table, "", below)


def shown_policies(values: Mapping[str, Any]) -> str:
    """Keys and values on one line, as they would stand in the file."""
    return " ".join(name if value is True else f"{name}={shown_value(value)}" for name, value in values.items())


def shown_value(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{key} = {shown_value(item)}" for key, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _shown_endpoint(endpoint: Mapping[str, Any]) -> str:
    weight = f" (weight {endpoint['weight']})" if endpoint["weight"] > 1 else ""
    return f"{endpoint['url']}{weight}" + (f" ({endpoint['note']})" if endpoint["note"] else "")


def _conditions(route: RouteConfig) -> list[str]:
    when = route.when
    found = [
        f"{kind} {name} = {value}"
        for kind, table in (("header", when.header), ("query", when.query), ("cookie", when.cookie))
        for name, value in table.items()
    ]
    return [*found, f"client in {', '.join(when.client)}"] if when.client else found


def _action(route: RouteConfig) -> str:
    if route.upstream is not None:
        return f"upstream {route.upstream}"
    if route.split:
        return "split " + ", ".join(f"{target.upstream} {target.weight}" for target in route.split)
    if route.redirect is not None:
        return f"redirect {route.redirect.status} {route.redirect.to}"
    assert route.respond is not None
    return f"respond {route.respond.status}"
