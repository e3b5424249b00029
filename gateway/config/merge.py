"""From tables to one configuration: defaults under routes, upstreams written in place, names for routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from gateway.config.addresses import looks_like_url
from gateway.config.document import Document
from gateway.config.files import read_users
from gateway.config.problems import KeyPath, Report, suggestion
from gateway.config.routes import Policies, RouteConfig
from gateway.config.server import AdminConfig, CacheStoreConfig, ServerConfig
from gateway.config.table import FrozenDict, kind_of
from gateway.config.upstreams import EndpointConfig, UpstreamConfig
from gateway.config.validation import validate

P = TypeVar("P", bound=Policies)

# No colon: what has one is an endpoint URL.
_UPSTREAM_NAME = re.compile("[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """A route of the file on its way into the configuration."""

    index: int
    route: RouteConfig
    broken: frozenset[str] = frozenset()
    """Keys that were left out, for they are wrong."""
    inherited: frozenset[str] = frozenset()
    """Keys whose value is that of [defaults]."""

    def where(self, key: str, *rest: str | int) -> KeyPath:
        """Where the value of ``key`` is written."""
        if key in self.inherited:
            return ("defaults", key, *rest)
        return ("routes", self.index, key, *rest)


@dataclass(frozen=True, slots=True)
class Draft:
    """What of a file is valid, not yet checked across its tables."""

    server: ServerConfig
    admin: AdminConfig | None
    cache: CacheStoreConfig
    upstreams: Mapping[str, UpstreamConfig | None]
    """None: the name is known, but the table is wrong."""
    defaults: Policies
    entries: tuple[Entry, ...]
    broken: frozenset[KeyPath] = frozenset()
    """Keys outside of routes that were left out, for they are wrong."""

    def tables(self) -> dict[str, Any]:
        """By the top-level keys of the file; a route that is wrong is None."""
        routes: list[RouteConfig | None] = [None] * (1 + max((entry.index for entry in self.entries), default=-1))
        for entry in self.entries:
            routes[entry.index] = entry.route
        return {
            "server": self.server,
            "admin": self.admin,
            "cache": self.cache,
            "upstreams": self.upstreams,
            "defaults": self.defaults,
            "routes": routes,
        }


def draft(data: Mapping[str, Any], report: Report, folder: Path) -> Draft:
    """Validate each table on its own, so that a mistake in one hides none in another."""
    for key in data:
        if key not in Document.model_fields:
            report.error((key,), "unknown key" + suggestion(str(key), Document.model_fields), "key")
    server, _ = validate(ServerConfig, data.get("server", {}), ("server",), report, folder)
    admin = None
    broken: set[KeyPath] = set()
    if "admin" in data:
        admin, wrong = validate(AdminConfig, data["admin"], ("admin",), report, folder)
        broken.update(("admin", key) for key in wrong)
    cache, _ = validate(CacheStoreConfig, data.get("cache", {}), ("cache",), report, folder)
    defaults, wrong = validate(Policies, data.get("defaults", {}), ("defaults",), report, folder)
    broken.update(("defaults", key) for key in wrong)
    upstreams = _upstreams(data.get("upstreams", {}), broken, report, folder)
    return Draft(
        server=server or ServerConfig(),
        admin=admin,
        cache=cache or CacheStoreConfig(),
        upstreams=upstreams,
        defaults=_with_users(defaults or Policies(), ("defaults",), report),
        entries=_entries(data.get("routes", ()), report, folder),
        broken=frozenset(broken),
    )


def _upstreams(data: Any, broken: set[KeyPath], report: Report, folder: Path) -> dict[str, UpstreamConfig | None]:
    if not isinstance(data, dict):
        report.error(("upstreams",), f"must be a table, not {kind_of(data)}")
        return {}
    upstreams = {}
    for name, table in data.items():
        path = ("upstreams", name)
        if not _UPSTREAM_NAME.fullmatch(str(name)):
            report.error(path, "a name has letters, digits, -, _ and . only", "key")
        upstreams[name], wrong = validate(UpstreamConfig, table, path, report, folder)
        broken.update((*path, key) for key in wrong)
    return upstreams


def _entries(data: Any, report: Report, folder: Path) -> tuple[Entry, ...]:
    if not isinstance(data, tuple):
        report.error(("routes",), f"must be a list of tables: write [[routes]], not {kind_of(data)}")
        return ()
    entries = []
    for index, table in enumerate(data):
        path = ("routes", index)
        route, broken = validate(RouteConfig, table, path, report, folder)
        if route is not None:
            entries.append(Entry(index, _with_users(route, path, report), broken))
    return tuple(entries)


def _with_users(policies: P, path: KeyPath, report: Report) -> P:
    """The users of a password file become part of the configuration, so that a changed file is a changed route."""
    auth = policies.auth
    if auth is None or auth.basic is None or auth.basic.file is None:
        return policies
    found = read_users(auth.basic.file, (*path, "auth", "basic", "file"), report)
    users = FrozenDict({user: SecretStr(password) for user, password in found.items()})
    basic = auth.basic.model_copy(update={"users": users})
    return policies.model_copy(update={"auth": auth.model_copy(update={"basic": basic})})


def merge(draft: Draft) -> tuple[dict[str, UpstreamConfig], tuple[Entry, ...]]:
    """Upstreams, those written in place included, and routes with the policies of [defaults] and a name each."""
    upstreams = {name: upstream for name, upstream in draft.upstreams.items() if upstream is not None}
    given = {key: getattr(draft.defaults, key) for key in draft.defaults.model_fields_set}
    names = {entry.route.name for entry in draft.entries if entry.route.name}
    entries = []
    for entry in draft.entries:
        own = entry.route.model_fields_set | entry.broken
        changes = {key: value for key, value in given.items() if key not in own}
        inherited = frozenset(changes)
        if "max_body" not in own and "max_body" not in given:
            changes["max_body"] = draft.server.limits.max_body
        if not entry.route.name:
            changes["name"] = _made_name(entry.route, names)
        route = entry.route.model_copy(update=changes)
        for reference in references(route):
            if looks_like_url(reference) and reference not in upstreams:
                upstreams[reference] = UpstreamConfig(endpoints=(EndpointConfig(url=reference),))
        entries.append(Entry(entry.index, route, entry.broken, inherited))
    return upstreams, tuple(entries)


def references(route: RouteConfig) -> list[str]:
    """Every upstream that a route names, by name or URL."""
    found = [target.upstream for target in route.split]
    if route.upstream is not None:
        found.append(route.upstream)
    if route.mirror is not None:
        found.append(route.mirror.upstream)
    return found


def _made_name(route: RouteConfig, taken: set[str]) -> str:
    """First host and first path; numbered where another route has it already."""
    base = (route.host[0] if route.host else "") + route.path[0]
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} {number}"
    taken.add(name)
    return name
