"""Lets scripts of other origins use a service, as the Fetch standard says.

app.add_middleware(CorsMiddleware, origins=["https://app.example.com", "https://*.example.org"])
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Forbidden
from gateway.exchange import WHOLE_FOLLOWS, ResponseRule
from gateway.http.fields import Fields, add_vary, get_all, without
from gateway.middleware.headers import run_with_rules
from gateway.middleware.refusal import refuse

_ORIGIN = re.compile(r"(null|[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?)")
_TOKENS = re.compile(rb"[ \t]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(?:,[ \t]*|$))+")
_SET_HERE = frozenset(
    [b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers"]
)


class Origins:
    """A set of origins: exact ones, ``*`` for all, and ``https://*.example.com`` for every subdomain.

    Raises ValueError for anything that no browser would send.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self.all = "*" in origins
        self._exact: set[bytes] = set()
        self._below: list[tuple[bytes, bytes]] = []
        for origin in origins:
            if origin == "*":
                continue
            origin = origin.lower()
            if not _ORIGIN.fullmatch(origin.replace("://*.", "://", 1)):
                raise ValueError(f'not an origin: {origin!r}; write "https://app.example.com"')
            scheme, wildcard, domain = origin.partition("://*.")
            if wildcard:
                self._below.append((f"{scheme}://".encode("ascii"), f".{domain}".encode("ascii")))
            else:
                self._exact.add(origin.encode("ascii"))

    def contains(self, origin: bytes) -> bool:
        """Whether scripts of ``origin`` may read answers."""
        if self.all or origin in self._exact:
            return True
        for scheme, domain in self._below:
            if origin.startswith(scheme) and origin.endswith(domain) and len(origin) > len(scheme) + len(domain):
                return _ORIGIN.fullmatch(origin.decode("latin-1")) is not None
        return False


class CorsRule:
    """The response rule: says whether the script that asked may read the answer.

    What the service itself said about it is replaced. An answer that depends on the origin says so in Vary, also to
    those who sent none, so that no cache gives one origin's answer to another. Preflights are left alone. Raises
    ValueError for credentials together with the origin ``*``: every site could act for its visitors.
    """

    def __init__(self, *, origins: Sequence[str], expose: Sequence[str] = (), credentials: bool = False) -> None:
        self.origins = Origins(origins)
        if self.origins.all and credentials:
            raise ValueError('credentials cannot be allowed for the origin "*"')
        self._granted: Fields = []
        if credentials:
            self._granted.append((b"access-control-allow-credentials", b"true"))
        self._exposed: Fields = []
        if expose:
            self._exposed.append((b"access-control-expose-headers", ", ".join(expose).encode("ascii")))

    def __call__(self, scope: Scope, message: Message) -> None:
        if not is_preflight(scope):
            self._say(self.granted(scope), message)

    def saying(self, granted: Fields) -> ResponseRule:
        """The rule for requests of which ``granted`` is known, preflights apart."""
        return lambda scope, message: self._say(granted, message)

    def _say(self, granted: Fields, message: Message) -> None:
        fields = without(message["headers"], _SET_HERE)
        message["headers"] = fields
        if not self.origins.all:
            add_vary(fields, b"Origin")
        if granted:
            fields += granted
            fields += self._exposed

    def granted(self, scope: Scope) -> Fields:
        """The fields that allow the origin of a request; none when it sent no origin, or one that is not allowed."""
        values = get_all(scope["headers"], b"origin")
        if len(values) != 1 or not self.origins.contains(values[0]):
            return []
        allowed = b"*" if self.origins.all else values[0]
        return [(b"access-control-allow-origin", allowed), *self._granted]


def is_preflight(scope: Scope) -> bool:
    """Whether a request only asks whether another one is allowed."""
    if scope.get("method") != "OPTIONS":
        return False
    names = {name for name, _ in scope["headers"]}
    return b"origin" in names and b"access-control-request-method" in names


class PreflightMiddleware:
    """Answers preflights: 204 with what is allowed, 403 for an origin that is not. Other requests pass.

    ``headers`` may hold ``*``: whatever the script asks for. ``max_age_s`` is how long a browser remembers the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rule: CorsRule,
        methods: Sequence[str] = ("GET", "HEAD", "POST"),
        headers: Sequence[str] = (),
        max_age_s: float = 600.0,
    ) -> None:
        self.app = app
        self.rule = rule
        self._any_header = "*" in headers
        self._fields: Fields = [(b"access-control-allow-methods", ", ".join(methods).encode("ascii"))]
        if headers and not self._any_header:
            self._fields.append((b"access-control-allow-headers", ", ".join(headers).encode("ascii")))
        self._fields.append((b"access-control-max-age", b"%d" % int(max_age_s)))
        self._fields.append((b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_preflight(scope):
            await self.app(scope, receive, send)
            return
        granted = self.rule.granted(scope)
        if not granted:
            error = Forbidden(
                "the origin of a preflight is not allowed", detail="This origin may not use the resource."
            )
            await refuse(error, scope, send)
            return
        fields = [*granted, *self._fields]
        if self._any_header:
            asked = get_all(scope["headers"], b"access-control-request-headers")
            # "*" itself means everything but Authorization, and nothing at all with credentials.
            fields += [(b"access-control-allow-headers", value) for value in asked if _TOKENS.fullmatch(value)]
        await send({"type": "http.response.start", "status": 204, "headers": fields, WHOLE_FOLLOWS: True})
        await send({"type": "http.response.body", "body": b""})


class CorsMiddleware:
    """Cross-origin requests: preflights are answered here, other answers say who may read them.

    ``origins`` as for ``Origins``; ``methods`` and ``headers`` that scripts may use, ``expose`` fields that they may
    read, ``credentials`` whether cookies go along, ``max_age_s`` how long a browser remembers a preflight.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Sequence[str],
        methods: Sequence[str] = ("GET", "HEAD", "POST"),
        headers: Sequence[str] = (),
        expose: Sequence[str] = (),
        credentials: bool = False,
        max_age_s: float = 600.0,
    ) -> None:
        self.rule = CorsRule(origins=origins, expose=expose, credentials=credentials)
        self.app = PreflightMiddleware(app, rule=self.rule, methods=methods, headers=headers, max_age_s=max_age_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await run_with_rules(self.app, scope, receive, send, self.rule)
