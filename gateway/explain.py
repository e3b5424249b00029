"""What the route table does to a request, and why: the answers of ``gateway routes`` and ``gateway explain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from gateway.config.document import Config
from gateway.config.routes import RouteConfig
from gateway.errors import GatewayError, MethodNotAllowed
from gateway.http.authority import normalise_host
from gateway.http.target import read_path
from gateway.router import Verdict
from gateway.routes import route_table, target_rewrite

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Question:
    """A request to explain."""

    scheme: str
    authority: bytes
    raw_path: bytes
    query: bytes
    method: str
    headers: tuple[tuple[bytes, bytes], ...]
    client: str

    @classmethod
    def parse(cls, url: str, *, method: str, headers: Sequence[str], client: str) -> Question:
        """From a URL (or a path, then on localhost) and fields as ``Name: value``; raises ValueError."""
        parts = urlsplit(url if "://" in url else f"http://localhost{'' if url.startswith('/') else '/'}{url}")
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
            raise ValueError(f"{url!r} is no URL such as http://shop.example.com/products")
        fields = []
        for header in headers:
            name, colon, value = header.partition(":")
            if not colon or not name.strip():
                raise ValueError(f"{header!r} is no field such as 'Accept: text/html'")
            fields.append((name.strip().lower().encode("ascii"), value.strip().encode("latin-1")))
        authority = parts.netloc.encode("ascii")
        for name_, value_ in fields:
            if name_ == b"host":
                authority = value_
        # As a browser would: what cannot stand in a target is escaped, what is escaped already stays.
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._\\#").encode("ascii")
        query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._").encode("ascii")
        others = [field for field in fields if field[0] != b"host"]
        return cls(parts.scheme, authority, path, query, method, ((b"host", authority), *others), client)

    def scope(self) -> dict[str, Any]:
        """The request as an ASGI scope."""
        return {
            "type": "http",
            "method": self.method,
            "scheme": self.scheme,
            "path": self.raw_path.decode("ascii"),
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": list(self.headers),
            "client": (self.client, 0),
            "root_path": "",
        }


def explain_request(config: Config, question: Question) -> dict[str, Any]:
    """Which route a request takes, why the others do not, and what becomes of it; plain data for JSON."""
    answer: dict[str, Any] = {"request": f"{question.method} {_url(question)}", "route": None, "why": "", "others": []}
    table = route_table(config)
    scope = question.scope()
    try:
        host = normalise_host([question.authority])
        path = read_path(question.raw_path)
        verdicts = table.explain(question.method, host, path, scope, question.client)
        answer["others"] = [_verdict(verdict) for verdict in verdicts if not verdict.matched]
        match = table.match(question.method, host, path, scope, question.client)
    except GatewayError as error:
        answer["status"] = error.status
        answer["why"] = f"{error.status} {error.title}: {error.reason or error.detail}"
        if isinstance(error, MethodNotAllowed):
            answer["allow"] = dict(error.headers).get(b"allow", b"").decode("ascii")
        return answer
    chosen = next(verdict for verdict in verdicts if verdict.matched)
    route = next(route for route in config.routes if route.name == match.rule.name)
    answer.update(route=route.name, why=chosen.reason, **describe_route(route))
    answer["params"] = {name: value.decode("latin-1") for name, value in match.params.items()}
    if route.action in ("upstream", "split"):
        answer["targets"] = _targets(config, route, question, match.params)
    if route.cache is not None:
        answer["cache_key"] = _cache_key(route, question)
    return answer


def describe_route(route: RouteConfig) -> dict[str, Any]:
    """A route's conditions, action and policies as plain data; secrets do not show."""
    return {
        "name": route.name,
        "host": list(route.host) or ["*"],
        "path": list(route.path),
        "methods": list(route.methods) or ["*"],
        "when": _conditions(route),
        "priority": route.priority,
        "action": _action(route),
        "policies": policies(route),
    }


def policies(route: RouteConfig) -> dict[str, Any]:
    """The policy keys of a route that differ from doing nothing, as they stand in the file."""
    shown = route.model_dump(mode="json", exclude=set(_NOT_POLICIES), exclude_defaults=True, by_alias=True)
    for name in ("compress", "cache", "websocket", "retry", "security_headers"):
        value = getattr(route, name)
        if value is None:
            shown.pop(name, None)
            if name in ("compress", "retry", "websocket"):
                shown[name] = False
        elif not shown.get(name):
            shown[name] = True
    if "rate_limit" in shown:
        # A store's URL may hold a password.
        shown["rate_limit"].pop("store", None)
    if route.auth is not None:
        # Only which way: users, keys and URLs with credentials are nobody's business here.
        shown["auth"] = [name for name in ("basic", "api_key", "jwt", "forward") if getattr(route.auth, name)]
    return shown


_NOT_POLICIES = (
    "name",
    "host",
    "path",
    "methods",
    "when",
    "priority",
    "upstream",
    "split",
    "split_on",
    "redirect",
    "respond",
    "auth",
)


def routes_table(entries: Sequence[dict[str, Any]]) -> Table:
    """The routes as a table for people."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("route", "methods", "host", "path", "action", "policies"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        conditions = "".join(f" when {condition}" for condition in entry["when"])
        priority = f" priority {entry['priority']}" if entry["priority"] else ""
        table.add_row(
            entry["name"],
            ",".join(entry["methods"]),
            " ".join(entry["host"]),
            " ".join(entry["path"]) + conditions + priority,
            entry["action"],
            " ".join(_shown(name, value) for name, value in entry["policies"].items()),
        )
    return table


def explanation_text(answer: dict[str, Any]) -> str:
    """An explanation for people."""
    lines = [answer["request"]]
    if answer["route"] is None:
        lines.append(f"  no route: {answer['why']}")
    else:
        lines += [f"  route     {answer['route']}: {answer['why']}", f"  action    {answer['action']}"]
        lines += [f"  target    {target}" for target in answer.get("targets", [])]
        lines += [f"  {name} = {value}" for name, value in answer["params"].items()]
        if "cache_key" in answer:
            lines.append(f"  cache     {answer['cache_key']}")
        lines.append("  policies  " + " ".join(_shown(name, value) for name, value in answer["policies"].items()))
    if answer["others"]:
        lines.append("  not taken")
        lines += [f"    {other['name']}: {other['reason']}" for other in answer["others"]]
    return "\n".join(lines)


def _url(question: Question) -> str:
    query = f"?{question.query.decode('ascii')}" if question.query else ""
    return f"{question.scheme}://{question.authority.decode('latin-1')}{question.raw_path.decode('ascii')}{query}"


def _verdict(verdict: Verdict) -> dict[str, str]:
    return {"name": verdict.rule.name, "reason": verdict.reason}


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


def _targets(config: Config, route: RouteConfig, question: Question, params: Mapping[str, bytes]) -> list[str]:
    """The URL at each endpoint that the request may go to."""
    names = [route.upstream] if route.upstream is not None else [target.upstream for target in route.split]
    targets = []
    for name in names:
        for endpoint in config.upstreams[str(name)].endpoints:
            target = target_rewrite(route, endpoint.base_path.encode("ascii")).apply(
                question.raw_path, question.query, params
            )
            origin = endpoint.url.removesuffix(endpoint.base_path) if endpoint.base_path else endpoint.url
            targets.append(f"{origin.rstrip('/')}{target.decode('latin-1')}")
    return targets


def _cache_key(route: RouteConfig, question: Question) -> str:
    cache = route.cache
    assert cache is not None
    parts = [
        route.name,
        "GET",
        question.scheme,
        question.authority.decode("latin-1"),
        question.raw_path.decode("ascii"),
    ]
    if question.query and cache.query == "all":
        parts.append(f"query {question.query.decode('ascii')}")
    elif cache.query != "all":
        parts.append(f"query {cache.query}")
    parts += [f"header {name}" for name in cache.vary]
    parts += [f"cookie {name}" for name in cache.cookies]
    cacheable = question.method in ("GET", "HEAD")
    return ("key: " if cacheable else f"{question.method} is not cached; a GET has the key: ") + " | ".join(parts)


def _shown(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name}={value}"
