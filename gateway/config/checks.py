"""What only several keys or tables together can tell: references, actions, templates, extras, warnings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gateway.config.access import AuthConfig
from gateway.config.addresses import looks_like_url
from gateway.config.conditions import Conditions
from gateway.config.extras import missing_extra
from gateway.config.files import check_certificates, check_upstream_tls, check_users
from gateway.config.merge import Draft, Entry
from gateway.config.problems import KeyPath, Report, quoted, suggestion
from gateway.config.routes import ACTIONS
from gateway.config.server import AdminConfig, ServerConfig
from gateway.config.templates import HEADER_NAMES, REDIRECT_NAMES, PathNames, template_complaints
from gateway.config.upstreams import UpstreamConfig

# Without an upstream there is nothing that these could change.
_FORWARDING = (
    *("strip_prefix", "add_prefix", "rewrite", "host_header", "timeout", "idle_timeout", "buffer_request", "retry"),
    *("websocket", "mirror"),
)


def check(draft: Draft, entries: tuple[Entry, ...], report: Report) -> None:
    """``entries``: the routes, merged and named."""
    names: dict[str, Entry] = {}
    for entry in entries:
        first = names.setdefault(entry.route.name, entry)
        if first is not entry:
            report.error(entry.where("name"), f"another route has the name {quoted(entry.route.name)} already")
    _check_server(draft.server, names, report)
    if draft.admin is not None and ("admin", "token") not in draft.broken:
        _check_admin(draft.admin, report)
    _check_store(draft.cache.store, ("cache", "store"), report)
    for name, upstream in draft.upstreams.items():
        if upstream is not None:
            _check_upstream(upstream, ("upstreams", name), draft.broken, report)
    conditions = Conditions(report)
    for entry in entries:
        path_names = conditions.check(entry)
        _check_action(entry, draft.upstreams.keys(), report)
        _check_templates(entry, path_names, report)
        _check_access(entry, draft.broken, report)
    _warn_of_workers(draft, entries, report)


def _check_server(server: ServerConfig, routes: Mapping[str, Any], report: Report) -> None:
    for index, name in enumerate(server.overload.exempt):
        if name not in routes:
            path = ("server", "overload", "exempt", index)
            report.error(path, f"no route named {quoted(name)}{suggestion(name, routes)}")
    if len(set(server.bind)) < len(server.bind):
        report.error(("server", "bind"), "has an address twice")
    if server.tls is not None:
        check_certificates(server.tls, ("server", "tls"), report)
        if server.tls.client_ca is not None and server.tls.client_auth == "none":
            why = 'has no effect with client_auth = "none": no client is asked for a certificate'
            report.warning(("server", "tls", "client_ca"), why, "key")


def _check_admin(admin: AdminConfig, report: Report) -> None:
    if admin.token is None and not admin.bind.is_loopback:
        report.error(("admin", "bind"), f"{admin.bind} is not loopback: set admin.token")


def _check_store(store: str, path: KeyPath, report: Report) -> None:
    if store != "memory" and (missing := missing_extra("redis")):
        report.error(path, missing)


def _check_upstream(upstream: UpstreamConfig, path: KeyPath, broken: Collection[KeyPath], report: Report) -> None:
    seen = set()
    for index, endpoint in enumerate(upstream.endpoints):
        if endpoint.url in seen:
            report.error((*path, "endpoints", index), f"{quoted(endpoint.url)} stands here twice")
        seen.add(endpoint.url)
    if upstream.balance != "hash" and upstream.hash_on != "client-ip" and (*path, "balance") not in broken:
        report.error((*path, "hash_on"), 'has no effect without balance = "hash"')
    if upstream.http2 and (missing := missing_extra("http2")):
        report.error((*path, "http2"), missing)
    check_upstream_tls(upstream.tls, (*path, "tls"), report)


def _check_action(entry: Entry, known: Collection[str], report: Report) -> None:
    """Exactly one action, on upstreams that exist; beside a redirect or an answer nothing that forwarding needs."""
    route = entry.route
    actions = [action for action in ACTIONS if getattr(route, action)]
    if len(actions) > 1:
        second = entry.where(actions[1])
        report.error(second, f"a route has one action, and this one has {' and '.join(actions)}", "key")
    elif not actions and not entry.broken:
        report.error(("routes", entry.index), f"needs exactly one of {', '.join(ACTIONS)}")
    if route.upstream is not None:
        _check_reference(route.upstream, entry.where("upstream"), known, report)
    for index, target in enumerate(route.split):
        _check_reference(target.upstream, entry.where("split", index, "upstream"), known, report)
    if route.split and not any(target.weight for target in route.split):
        report.error(entry.where("split"), "needs a weight above 0")
    if len({target.upstream for target in route.split}) < len(route.split):
        report.error(entry.where("split"), "names an upstream twice")
    if not route.split and route.split_on != "random" and "split" not in entry.broken:
        report.error(entry.where("split_on"), "has no effect without split")
    if route.mirror is not None:
        _check_reference(route.mirror.upstream, entry.where("mirror", "upstream"), known, report)
    if len(actions) == 1 and actions[0] in ("redirect", "respond"):
        for key in _FORWARDING:
            if key in route.model_fields_set and key not in entry.inherited:
                report.warning(entry.where(key), f"has no effect beside {actions[0]}", "key")


def _check_reference(name: str, path: KeyPath, known: Collection[str], report: Report) -> None:
    if name not in known and not looks_like_url(name):
        report.error(path, f"no upstream named {quoted(name)}{suggestion(name, known)}")


def _check_templates(entry: Entry, names: PathNames, report: Report) -> None:
    route = entry.route
    whose = f" (route {quoted(route.name)})"
    if "path" in entry.broken:
        return
    if route.rewrite:
        for key in ("strip_prefix", "add_prefix"):
            if getattr(route, key):
                where = entry.where("rewrite")
                report.error(where, f"excludes {key}" + (whose if "rewrite" in entry.inherited else ""))
        for complaint in template_complaints(route.rewrite, names, ()):
            report.error(entry.where("rewrite"), complaint + (whose if "rewrite" in entry.inherited else ""))
    if route.redirect is not None:
        for complaint in template_complaints(route.redirect.to, names, REDIRECT_NAMES):
            report.error(entry.where("redirect", "to"), complaint)
    for kind, rules in (("set", route.request_headers.set), ("add", route.request_headers.add)):
        for name, value in rules.items():
            for complaint in template_complaints(value, names, HEADER_NAMES) if "{" in value else ():
                inherited = "request_headers" in entry.inherited
                report.error(entry.where("request_headers", kind, name), complaint + (whose if inherited else ""))


def _check_access(entry: Entry, broken: Collection[KeyPath], report: Report) -> None:
    route = entry.route
    if route.auth is not None:
        _check_auth(route.auth, entry.where("auth"), report)
    if route.rate_limit is not None:
        _check_store(route.rate_limit.store, entry.where("rate_limit", "store"), report)
        is_auth_broken = "auth" in entry.broken or ("defaults", "auth") in broken
        if route.rate_limit.key == "user" and route.auth is None and not is_auth_broken:
            whose = f" on the route {quoted(route.name)}" if "rate_limit" in entry.inherited else ""
            report.error(entry.where("rate_limit", "key"), f'"user" needs auth{whose}')


def _check_auth(auth: AuthConfig, path: KeyPath, report: Report) -> None:
    if auth.basic is not None:
        if missing := missing_extra("basic"):
            report.error((*path, "basic"), missing)
        if auth.basic.file is None:
            users = ((user, password.get_secret_value()) for user, password in auth.basic.users.items())
            check_users(users, (*path, "basic", "users"), report)
    if auth.jwt is not None and (missing := missing_extra("jwt")):
        report.error((*path, "jwt"), missing)


def _warn_of_workers(draft: Draft, entries: tuple[Entry, ...], report: Report) -> None:
    if draft.server.workers == 1:
        return
    path = ("server", "workers")
    if draft.cache.store == "memory" and any(entry.route.cache is not None for entry in entries):
        report.warning(path, 'each worker has a memory cache of its own; share one with cache.store = "redis://..."')
    limits = (entry.route.rate_limit for entry in entries)
    if any(limit is not None and limit.store == "memory" for limit in limits):
        report.warning(path, "each worker counts on its own for a rate limit in memory; share the counts with a Redis")
