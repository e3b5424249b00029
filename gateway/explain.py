"""What the gateway does to one request, and why: the answer of ``gateway explain``.

The request goes through the very admission and route table that serve traffic; nothing is sent anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.config.document import Config
from gateway.config.policies import CacheConfig
from gateway.config.routes import RouteConfig
from gateway.config.server import ServerConfig
from gateway.config.upstreams import EndpointConfig
from gateway.config.values import METHODS
from gateway.describe import describe_route, endpoint_note, shown_policies
from gateway.errors import GatewayError, MethodNotAllowed, MethodNotImplemented
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.cache_control import request_directives
from gateway.http.fields import Fields, get_first, get_joined
from gateway.http.networks import Networks, normal_address
from gateway.http.target import RedirectTarget
from gateway.middleware.access import AccessMiddleware
from gateway.middleware.admission import Admission
from gateway.middleware.cache_request import CacheRequest
from gateway.middleware.cors import CorsRule, is_preflight
from gateway.router import Match
from gateway.routes import key_policy, route_table, target_rewrite

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_SCHEMES = ("http", "https", "ws", "wss")
_BYPASSES = {
    "body": "it has a body",
    "precondition": "only the upstream can judge If-Match and If-Unmodified-Since",
    "cookie": "it carries a cookie",
    "override": "it has a field that some frameworks take another URL or method from",
}


@dataclass(frozen=True)
class Question:
    """A request to explain; ``client`` is the address that it comes from, which may be a trusted proxy's."""

    scheme: str
    raw_path: bytes
    query: bytes
    method: str
    headers: tuple[tuple[bytes, bytes], ...]
    client: str

    @classmethod
    def parse(
        cls, url: str, *, method: str = "GET", headers: Sequence[str] = (), client: str = "127.0.0.1"
    ) -> Question:
        """From a URL, or a path and then on localhost, and fields as ``Name: value``; raises ValueError.

        The URL is read as a browser does: what cannot stand in a target is escaped, what is escaped stays. Dot segments
        stay as well, so that it can be seen what becomes of them.
        """
        if "://" not in url:
            url = f"http://localhost{'' if url.startswith('/') else '/'}{url}"
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ValueError("not a URL such as http://shop.example.com/products, ws://... or a path")
        if "@" in parts.netloc:
            raise ValueError("a URL with credentials: say -H 'Authorization: ...' instead")
        if not normal_address(client):
            raise ValueError(f"{client!r} is no address such as 192.0.2.7")
        if not re.fullmatch("[A-Z-]+", method):
            raise ValueError(f"{method!r} is no method")
        fields = [_field(header) for header in headers]
        if not any(name == b"host" for name, _ in fields):
            fields.insert(0, (b"host", _host(parts.netloc)))
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._\\#|^[]{}").encode("ascii")
        query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._|^[]{}\\").encode("ascii")
        return cls(parts.scheme, path, query, method, tuple(fields), client)

    @property
    def is_websocket(self) -> bool:
        """Whether it asks for a WebSocket."""
        upgrade = get_first(list(self.headers), b"upgrade") or b""
        return self.scheme in ("ws", "wss") or (self.method == "GET" and upgrade.lower() == b"websocket")

    @property
    def target(self) -> bytes:
        """Path and query."""
        return b"%b?%b" % (self.raw_path, self.query) if self.query else self.raw_path

    def scope(self) -> dict[str, Any]:
        """The request as an ASGI scope."""
        return {
            "type": "websocket" if self.is_websocket else "http",
            "method": self.method,
            "scheme": self.scheme,
            "http_version": "1.1",
            "path": self.raw_path.decode("ascii"),
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": list(self.headers),
            "client": (self.client, 0),
            "root_path": "",
            "extensions": {},
        }


def explain_request(config: Config, question: Question) -> dict[str, Any]:
    """Which route a request takes, why the others do not, and what becomes of it; plain data for JSON.

    ``status`` is there when the gateway answers by itself, with ``reply`` saying how.
    """
    scope = question.scope()
    exchange = Exchange(question.method, question.target)
    host = get_first(list(question.headers), b"host") or b""
    url = f"{question.scheme}://{host.decode('latin-1')}{question.target.decode('ascii')}"
    answer: dict[str, Any] = {
        "request": f"{question.method} {url}",
        "client": question.client,
        "route": None,
        "why": "",
        "others": [],
    }
    try:
        _admit(config.server, scope, exchange)
        answer["client"] = exchange.client
        assert exchange.path is not None
        table = route_table(config)
        asked = (exchange.method, exchange.host, exchange.path, scope, exchange.client)
        verdicts = table.explain(*asked)
        answer["others"] = [{"name": v.rule.name, "reason": v.reason} for v in verdicts if not v.matched]
        match = table.match(*asked)
    except GatewayError as error:
        answer["status"] = error.status
        answer["reply"] = answer["why"] = f"{error.status} {error.title}: {error.reason or error.detail}"
        if isinstance(error, MethodNotAllowed):
            answer["allow"] = dict(error.headers).get(b"allow", b"").decode("ascii")
        return answer
    route = next(route for route in config.routes if route.name == match.rule.name)
    described = describe_route(config, route)
    answer["route"] = route.name
    answer["why"] = next(verdict.reason for verdict in verdicts if verdict.matched)
    answer["params"] = {name: value.decode("latin-1") for name, value in match.params.items()}
    answer["action"] = described["action"]
    answer.update(_reply(route, match, exchange, scope))
    if route.action in ("upstream", "split"):
        answer["host_header"] = _host_header(route, exchange)
        answer["targets"] = _targets(config, route, question, match.params)
    if route.cache is None:
        answer["cache"] = None
    else:
        identified = route.auth is not None or (
            config.server.tls is not None and config.server.tls.client_auth == "require"
        )
        answer["cache"] = _cache(route, route.cache, question, exchange, scope, identified=identified)
    answer["policies"] = described["policies"]
    return answer


def explanation_text(answer: Mapping[str, Any]) -> str:
    """An explanation for people."""
    lines = [answer["request"]]

    def add(name: str, text: str) -> None:
        lines.append(f"  {name:<10}{text}")

    if answer["route"] is None:
        add("no route", answer["why"])
        if "allow" in answer:
            add("allow", answer["allow"])
    else:
        add("route", f"{answer['route']}: {answer['why']}")
        add("action", answer["action"])
        for name, value in answer["params"].items():
            add("name", f"{name} = {value}")
        if "reply" in answer:
            add("answer", answer["reply"])
        for target in answer.get("targets", ()):
            add("target", target["url"] + (f" ({target['note']})" if target["note"] else ""))
        if "host_header" in answer:
            add("host", answer["host_header"])
        add("client", answer["client"])
        if answer["cache"] is not None:
            add("cache", answer["cache"]["decision"])
            add("", f"key {answer['cache']['key']}")
        if answer["policies"]:
            add("policies", shown_policies(answer["policies"]))
    if answer["others"]:
        lines.append("  not taken")
        lines += [f"    {other['name']}: {other['reason']}" for other in answer["others"]]
    return "\n".join(lines)


def _field(header: str) -> tuple[bytes, bytes]:
    match = _HEADER.fullmatch(header)
    if match is None:
        # Not repeated: it may be a credential.
        name = header.partition(":")[0]
        place = f"the field {name!r}" if ":" in header and name.isidentifier() else "a field"
        raise ValueError(f"{place} is not of the form 'Name: value', such as 'Accept: text/html'")
    return match[1].lower().encode("ascii"), match[2].encode("latin-1")


def _host(authority: str) -> bytes:
    """As a browser writes it into Host."""
    if authority.isascii():
        return authority.encode("ascii")
    try:
        return authority.encode("idna")
    except UnicodeError:
        raise ValueError(f"{authority!r} is no host") from None


def _admit(server: ServerConfig, scope: dict[str, Any], exchange: Exchange) -> None:
    """What holds for every request before any route is looked at. Raises GatewayError."""
    if exchange.method not in METHODS and exchange.method != "CONNECT":
        raise MethodNotImplemented(f"the server knows no method {exchange.method}")
    limits = server.limits
    admission = Admission(
        pseudonym=server.via or "gw-explain",
        trusted=Networks(server.trusted_proxies),
        client_ip_from=server.client_ip_from,
        request_id_header=server.request_id_header,
        subject_header=server.tls.subject_header if server.tls is not None else "",
        max_headers=limits.max_headers,
        max_header_bytes=limits.max_header_bytes,
        max_target_bytes=limits.max_target_bytes,
    )
    admission(scope, exchange)
    scope[SCOPE_KEY] = exchange


def _reply(route: RouteConfig, match: Match, exchange: Exchange, scope: dict[str, Any]) -> dict[str, Any]:
    """What the gateway answers by itself where the request gets no further; else nothing.

    In the order of the layers; limits, authentication and the user's own middleware can only be named.
    """
    if (route.allow is not None or route.deny) and not AccessMiddleware(
        _nobody, allow=route.allow, deny=route.deny
    ).admits(exchange.client):
        return {
            "status": 403,
            "reply": f"403 Forbidden: the client {exchange.client} is not admitted by allow and deny",
        }
    if route.cors is not None and scope["type"] == "http" and is_preflight(scope):
        cors = route.cors
        if CorsRule(origins=cors.origins, expose=cors.expose, credentials=cors.credentials).granted(scope):
            return {"status": 204, "reply": "204 No Content: the preflight, answered by cors"}
        return {"status": 403, "reply": "403 Forbidden: a preflight from an origin that cors does not name"}
    if scope["type"] == "websocket" and route.action in ("upstream", "split") and route.websocket is None:
        return {"status": 403, "reply": "403 Forbidden: the route takes no WebSockets"}
    if route.respond is not None:
        return {"status": route.respond.status, "reply": f"{route.respond.status}, the fixed answer of the route"}
    if route.redirect is not None:
        target = RedirectTarget(route.redirect.to)
        location = target.location(match.params, exchange.public_host, exchange.scheme, scope["query_string"])
        return {"status": route.redirect.status, "reply": f"{route.redirect.status} to {location.decode('latin-1')}"}
    return {}


def _host_header(route: RouteConfig, exchange: Exchange) -> str:
    if route.host_header == "preserve":
        return exchange.public_host.decode("latin-1")
    return "the endpoint's own" if route.host_header == "upstream" else route.host_header


def _targets(
    config: Config, route: RouteConfig, question: Question, params: Mapping[str, bytes]
) -> list[dict[str, Any]]:
    """The URL at each endpoint that the request may go to."""
    sides = [(route.upstream, 1)] if route.upstream is not None else [(s.upstream, s.weight) for s in route.split]
    total = sum(weight for _, weight in sides)
    targets = []
    for name, weight in sides:
        for endpoint in config.upstreams[str(name)].endpoints:
            notes = [endpoint_note(endpoint)] if endpoint_note(endpoint) else []
            if route.split:
                notes.insert(0, f"{name}, {100 * weight / total:.3g} %" if total else str(name))
            rewrite = target_rewrite(route, endpoint.base_path.encode("ascii"))
            target = rewrite.apply(question.raw_path, question.query, params).decode("latin-1")
            url = _endpoint_url(endpoint, target)
            targets.append({"upstream": name, "url": url, "note": ", ".join(notes)})
    return targets


def _endpoint_url(endpoint: EndpointConfig, target: str) -> str:
    if endpoint.scheme in ("unix", "asgi"):
        return f"{endpoint.url} {target}"
    return endpoint.url.removesuffix(endpoint.base_path) + target


def _cache(
    route: RouteConfig,
    cache: CacheConfig,
    question: Question,
    exchange: Exchange,
    scope: dict[str, Any],
    *,
    identified: bool,
) -> dict[str, Any]:
    """Whether the store is asked and written, and under which key."""
    keys = key_policy(route.name, cache)
    headers: Fields = scope["headers"]
    shown = keys.describe(exchange.scheme, exchange.public_host, exchange.target, headers)
    answer = {"used": False, "decision": "", "key": shown}
    if scope["type"] != "http":
        answer["decision"] = "not used: a WebSocket"
        return answer
    if question.method not in ("GET", "HEAD"):
        answer["decision"] = f"not used: {question.method} is not stored; a GET would be, under the key below"
        return answer
    request = CacheRequest(
        scope,
        _no_message,
        _no_send,
        keys.key(exchange.scheme, exchange.public_host, exchange.target, headers),
        identified=identified,
        ignore_cookies=cache.request_cookie == "ignore",
        key_cookies=keys.cookies,
    )
    if request.bypass:
        answer["decision"] = f"not used: {_BYPASSES.get(request.bypass, request.bypass)}"
        return answer
    answer["used"] = True
    limits = []
    if request.authorized:
        limits.append("its sender is identified: only answers that are public or have s-maxage or must-revalidate")
    directives = request_directives(get_joined(headers, b"cache-control"), get_joined(headers, b"pragma"))
    if directives.no_store:
        limits.append("no-store: the answer is not stored")
    if request.range is not None:
        limits.append("a range is cut from a stored answer, and not stored itself")
    if question.method == "HEAD":
        limits.append("HEAD reads what a GET stored")
    answer["decision"] = "used" + "".join(f"; {limit}" for limit in limits)
    return answer


async def _nobody(*_: Any) -> None:
    raise NotImplementedError


async def _no_message() -> Any:
    raise NotImplementedError


async def _no_send(message: Any) -> None:
    raise NotImplementedError
