"""THE ORDER: configuration becomes stacks, and every layer of the request path is listed here once.

Gateway-wide, outermost first:

    exchange     one record per request; access log and metrics read it; failures are answered here
    admission    client identity, request id, safety of target, Host and fields, loops, limits
    dispatch     the route table

Per route, outermost first, only what the route asks for:

    response rules   on every answer of the route, whoever made it
    overload         shedding, unless the route is exempt
    concurrency      max_concurrent
    access           allow, deny
    rate limit       by address or header: guessing passwords is limited too
    preflight        of CORS: it never carries credentials
    authentication
    rate limit       by user
    middleware       the user's own, in order
    cache            a hit ends here, already compressed and already authorised; routes without one, beside routes that
                     have one, drop what they change
    compression
    decompression    of request bodies
    the action       upstream, split, redirect, respond

Only this module and ``generation``, which owns what it makes, turn configuration into objects.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.access import AuthConfig, RateLimitConfig
from gateway.config.document import Config
from gateway.config.policies import CacheConfig
from gateway.config.problems import ConfigError
from gateway.config.routes import RouteConfig
from gateway.errors import Forbidden
from gateway.exchange import SCOPE_KEY, Exchange, Recorder, ResponseRule
from gateway.express.guarded import GuardedLane, Guards
from gateway.express.proxied import ProxiedLane
from gateway.express.resumed import Resumption
from gateway.express.table import Express, Lane
from gateway.http.caching import SAFE_METHODS
from gateway.http.networks import Networks
from gateway.middleware.access import AccessMiddleware
from gateway.middleware.admission import Admission
from gateway.middleware.auth import AuthMiddleware
from gateway.middleware.cache import CacheMiddleware
from gateway.middleware.cache_invalidation import CacheInvalidationMiddleware
from gateway.middleware.compression import COMPRESSIBLE_TYPES, CompressionMiddleware
from gateway.middleware.concurrency import ConcurrencyMiddleware
from gateway.middleware.cors import CorsRule, PreflightMiddleware
from gateway.middleware.decompression import DecompressionMiddleware
from gateway.middleware.exchange import ExchangeMiddleware, Gate
from gateway.middleware.overload import OverloadMiddleware
from gateway.middleware.rate_limit import RateLimitMiddleware
from gateway.proxy.fixed import RedirectHandler, RespondHandler
from gateway.proxy.handler import ProxyHandler
from gateway.proxy.mirror import MirrorHandler
from gateway.proxy.outbound import Outbound
from gateway.proxy.retry import NO_RETRY, RetryPolicy, conditions
from gateway.proxy.split import SplitHandler
from gateway.proxy.websocket import WebSocketProxy, WebSocketSettings
from gateway.recent import Recent
from gateway.router import RouteTable
from gateway.routes import query_setting, target_rewrite, upstream_names
from gateway.runtime import Runtime
from gateway.upstream.balancing import make_key
from gateway.upstream.pool import Upstream
from gateway.wiring.access import authenticator, identity_fields
from gateway.wiring.express import proxied_lane, shared_lane, stored_lane
from gateway.wiring.rules import (
    added_fields,
    answer_rules,
    hidden_names,
    per_client_fields,
    request_rule,
    response_rules,
)

logger = logging.getLogger("gateway")


def gateway_wide(
    config: Config,
    runtime: Runtime,
    table: RouteTable,
    *,
    enter: Gate,
    count: Callable[[], None],
    leave: Recorder,
) -> tuple[ASGIApp, Express]:
    """The layers that every request passes on its way to the table, and the short way past them.

    Each exchange is told to ``enter`` and ``leave``; one on the short way to ``count`` and ``leave``.
    """
    server, limits = config.server, config.server.limits
    admission = Admission(
        pseudonym=server.via or runtime.pseudonym,
        trusted=Networks(server.trusted_proxies),
        client_ip_from=server.client_ip_from,
        request_id_header=server.request_id_header,
        subject_header=server.tls.subject_header if server.tls is not None else "",
        max_headers=limits.max_headers,
        max_header_bytes=limits.max_header_bytes,
        max_target_bytes=limits.max_target_bytes,
    )
    recorders, id_header = (leave, *runtime.recorders), server.request_id_header
    app = ExchangeMiddleware(
        Dispatcher(table), gates=(enter, admission), recorders=recorders, request_id_header=id_header
    )
    express = Express(
        ExchangeMiddleware(Resumption(), recorders=recorders, request_id_header=id_header),
        admission=admission,
        table=table,
        enter=count,
        leave=leave,
        recorders=runtime.recorders,
    )
    return app, express


class Route:
    """A compiled route: its stack, the rules for its answers, and what it was made from."""

    __slots__ = ("app", "config", "lane", "mirrors", "name", "response_rules", "unguarded", "upstreams")

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.name = config.name
        self.upstreams: tuple[Upstream, ...] = ()
        self.mirrors: list[MirrorHandler] = []
        self.response_rules: tuple[ResponseRule, ...] = ()
        self.app: ASGIApp = _nowhere
        self.unguarded: ASGIApp = _nowhere
        """The stack without the layers that decide who may use it."""
        self.lane: Lane | None = None
        """The short way; None when all its requests have to pass through ``app``."""


class Dispatcher:
    """Hands each request to the stack of its route.

    Like other layers that have nothing to do afterwards it returns the next one's awaitable: a coroutine of its own
    would cost 0.5 us.
    """

    def __init__(self, table: RouteTable) -> None:
        self._match = table.match

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope[SCOPE_KEY]
        assert exchange.path is not None
        match = self._match(exchange.method, exchange.host, exchange.path, scope, exchange.client)
        route: Route = match.rule.target
        exchange.route = route.name
        exchange.params = match.params
        exchange.response_rules = route.response_rules
        return route.app(scope, receive, send)


class Compiler:
    """Turns routes into stacks; a route that did not change, on upstreams that did not, is the one in ``earlier``."""

    def __init__(
        self, config: Config, runtime: Runtime, upstreams: Mapping[str, Upstream], earlier: Mapping[str, Route]
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._upstreams = upstreams
        self._earlier = earlier
        self._has_cache = _has_cache(config)
        self._recent_fields = Recent()

    def route(self, config: RouteConfig) -> Route:
        upstreams = tuple(self._upstreams[name] for name in upstream_names(config))
        old = self._earlier.get(config.name)
        if old is not None and old.config == config and old.upstreams == upstreams:
            return old
        route = Route(config)
        route.upstreams = upstreams
        route.response_rules = tuple(response_rules(config))
        route.app = self._stack(route, config)
        return route

    def _stack(self, route: Route, config: RouteConfig) -> ASGIApp:
        """The layers of a route, innermost first."""
        app = self._action(route, config)
        compression: CompressionMiddleware | None = None
        if config.decompress_request:
            app = DecompressionMiddleware(app, max_body=config.max_body)
        if config.compress is not None and config.action in ("upstream", "split"):
            compress = config.compress
            types = COMPRESSIBLE_TYPES if compress.types is None else compress.types
            app = compression = CompressionMiddleware(
                app,
                codings=compress.codings,
                min_size=compress.min_size,
                types=types,
                level=compress.level,
                turn=self._runtime.coding_turn,
            )
        if config.cache is not None:
            app = self._cache(app, config, config.cache)
        elif self._has_cache and _may_change_something(config):
            app = CacheInvalidationMiddleware(app, cache=self._runtime.cache)
        inner = app
        for middleware in reversed(config.middleware):
            app = _with_middleware(app, config.name, middleware.use, middleware.arguments())
        route.unguarded = app
        guarded, guards = self._guarded(app, config)
        if app is inner and guards.answer_at_once:
            lane = shared_lane(
                config, route.response_rules, lambda rules: self._lane(route, config, inner, compression, rules)
            )
            route.lane = lane if lane is None or guards.are_none else GuardedLane(lane, guards)
        return guarded

    def _lane(
        self,
        route: Route,
        config: RouteConfig,
        app: ASGIApp,
        compression: CompressionMiddleware | None,
        response_rules: tuple[ResponseRule, ...],
    ) -> Lane | None:
        """The short way of a route with ``app`` as the outermost layer behind its guards; None when it has none."""
        request_id_name = self._config.server.request_id_header.lower().encode("ascii")
        lane = self._proxied_lane(route, config, compression, response_rules, request_id_name)
        if isinstance(app, CacheMiddleware):
            return stored_lane(config, app, lane, response_rules, request_id_name)
        return lane

    def _proxied_lane(
        self,
        route: Route,
        config: RouteConfig,
        compression: CompressionMiddleware | None,
        response_rules: tuple[ResponseRule, ...],
        request_id_name: bytes,
    ) -> ProxiedLane | None:
        if config.upstream is None:
            return None
        return proxied_lane(
            config,
            route.upstreams[0],
            self._config.upstreams[config.upstream],
            outbound=self._outbound(config),
            compression=compression,
            response_rules=response_rules,
            request_id_name=request_id_name,
            recent=self._recent_fields,
        )

    def _guarded(self, app: ASGIApp, config: RouteConfig) -> tuple[ASGIApp, Guards]:
        """The layers that decide who may use a route, and how much, innermost first; and those that are asked."""
        guards = Guards()
        limit = config.rate_limit
        if limit is not None and limit.key == "user":
            app = guards.rate_limit = self._rate_limit(app, config.name, limit)
        if config.auth is not None:
            app = guards.auth = self._auth(app, config.name, config.auth)
        if config.cors is not None:
            cors = config.cors
            app = PreflightMiddleware(
                app,
                rule=CorsRule(origins=cors.origins, expose=cors.expose, credentials=cors.credentials),
                methods=cors.methods,
                headers=cors.headers,
                max_age_s=cors.max_age,
            )
        if limit is not None and limit.key != "user":
            app = guards.rate_limit = self._rate_limit(app, config.name, limit)
        if config.allow is not None or config.deny:
            app = guards.access = AccessMiddleware(app, allow=config.allow, deny=config.deny)
        if config.max_concurrent:
            in_flight = self._runtime.in_flight_on(config.name)
            app = guards.concurrency = ConcurrencyMiddleware(
                app, max_concurrent=config.max_concurrent, in_flight=in_flight
            )
        overload = self._config.server.overload
        if (overload.max_in_flight or overload.max_loop_lag) and config.name not in overload.exempt:
            app = guards.overload = OverloadMiddleware(
                app,
                max_in_flight=overload.max_in_flight,
                max_loop_lag_s=overload.max_loop_lag,
                in_flight=self._runtime.in_flight,
                loop_lag=self._runtime.loop_lag,
            )
        return app, guards

    def _auth(self, app: ASGIApp, name: str, auth: AuthConfig) -> AuthMiddleware:
        try:
            who = authenticator(auth, fetch=self._runtime.fetch)
        except ValueError as error:
            raise ConfigError.at(f"routes.{name}.auth", str(error)) from error
        return AuthMiddleware(app, authenticator=who, forward_credentials=auth.forward_credentials)

    def _rate_limit(self, app: ASGIApp, name: str, limit: RateLimitConfig) -> RateLimitMiddleware:
        return RateLimitMiddleware(
            app,
            count=limit.rate.count,
            period_s=limit.rate.period_s,
            burst=limit.burst,
            key=limit.key,
            store=self._runtime.counters(limit.store),
            on_error=limit.on_error,
            namespace=name,
        )

    def _cache(self, app: ASGIApp, config: RouteConfig, cache: CacheConfig) -> ASGIApp:
        return CacheMiddleware(
            app,
            cache=self._runtime.cache,
            namespace=config.name,
            ttl_s=cache.ttl,
            override=cache.override,
            stale_while_revalidate_s=cache.stale_while_revalidate,
            stale_if_error_s=cache.stale_if_error,
            vary=cache.vary,
            query=query_setting(cache),
            cookies=cache.cookies,
            request_cookie=cache.request_cookie,
            set_cookie=cache.set_cookie,
            per_client_fields=per_client_fields(config, self._config.server.request_id_header),
            tags_header=cache.tags_header,
            lock_timeout_s=cache.lock_timeout,
            status_header=cache.status_header,
            max_object_bytes=self._config.cache.max_object,
        )

    def _action(self, route: Route, config: RouteConfig) -> ASGIApp:
        """What a route ends in."""
        if config.respond is not None:
            respond = config.respond
            return RespondHandler(status=respond.status, body=respond.body, headers=respond.headers)
        if config.redirect is not None:
            return RedirectHandler(to=config.redirect.to, status=config.redirect.status)
        if config.upstream is not None:
            app = self._proxy(config, config.upstream)
        else:
            sides = [(self._proxy(config, side.upstream), side.weight) for side in config.split]
            app = SplitHandler(
                sides, key=None if config.split_on == "random" else make_key(config.split_on), rng=self._runtime.rng
            )
        if config.mirror is not None:
            mirror = config.mirror
            app = MirrorHandler(
                app,
                self._proxy(config.model_copy(update={"retry": None}), mirror.upstream),
                share=mirror.share,
                max_body=mirror.max_body,
                timeout_s=mirror.timeout,
                counts=self._runtime.mirrored_on(config.name),
                rng=self._runtime.rng,
            )
            route.mirrors.append(app)
        return app

    def _proxy(self, config: RouteConfig, name: str) -> ASGIApp:
        runtime, upstream = self._runtime, self._upstreams[name]
        assert runtime.client_watch is not None
        outbound = self._outbound(config)
        retry = config.retry
        http = ProxyHandler(
            upstream,
            outbound=outbound,
            client_watch=runtime.client_watch,
            timeout_s=config.timeout,
            idle_timeout_s=config.idle_timeout,
            max_body=config.max_body,
            buffer_bytes=config.buffer_request or 0,
            retry=NO_RETRY
            if retry is None
            else RetryPolicy(
                attempts=retry.attempts,
                attempt_timeout_s=retry.attempt_timeout,
                on=conditions(retry.on),
                methods=frozenset(retry.methods),
                max_body=retry.max_body,
                backoff_s=retry.backoff,
            ),
            hidden=hidden_names(config),
            answer_rules=tuple(answer_rules(config, self._config.upstreams[name])),
            rng=runtime.rng,
        )
        if config.websocket is None:
            return ByKind(http, _forbidden)
        settings = WebSocketSettings(
            idle_timeout_s=config.websocket.idle_timeout,
            ping_s=config.websocket.ping,
            max_message_bytes=config.websocket.max_message,
        )
        websocket = WebSocketProxy(
            upstream,
            build_request=outbound.request_for,
            clean_fields=http.public_fields,
            live=runtime.websockets,
            settings=settings,
            timeout_s=config.timeout,
        )
        return ByKind(http, websocket)

    def _outbound(self, config: RouteConfig) -> Outbound:
        server = self._config.server
        return Outbound(
            make_rewrite=lambda base_path: target_rewrite(config, base_path),
            add=(
                added_fields(
                    pseudonym=server.via or self._runtime.pseudonym, request_id_header=server.request_id_header
                ),
            ),
            rule=request_rule(config),
            host_header=config.host_header,
            protected=identity_fields(config.auth, server.tls),
        )


class ByKind:
    """One application for requests, another for WebSockets."""

    def __init__(self, http: ASGIApp, websocket: ASGIApp) -> None:
        self._http = http
        self._websocket = websocket

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (self._http if scope["type"] == "http" else self._websocket)(scope, receive, send)


async def _forbidden(scope: Scope, receive: Receive, send: Send) -> None:
    raise Forbidden("the route takes no WebSockets")


def may_keep_routes(old: Config, new: Config) -> bool:
    """Whether stacks take the same from ``[server]`` and ``[cache]`` in both configurations."""
    return (old.server, old.cache, _has_cache(old)) == (new.server, new.cache, _has_cache(new))


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


def _has_cache(config: Config) -> bool:
    return any(route.cache is not None for route in config.routes)


def _may_change_something(config: RouteConfig) -> bool:
    """Whether a route passes unsafe requests to an upstream."""
    return config.action in ("upstream", "split") and not SAFE_METHODS.issuperset(config.methods or ["POST"])


def _with_middleware(app: ASGIApp, route: str, name: str, arguments: dict[str, Any]) -> ASGIApp:
    """``app`` inside the middleware that ``package.module:Class`` names. Raises ConfigError."""
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        made: ASGIApp = found(app, **arguments)
    except Exception as error:
        # Whatever the user's own code raises: a running gateway must not be hurt by it.
        message = f"the middleware {name!r} cannot be made: {type(error).__name__}: {error}"
        raise ConfigError.at(f"routes.{route}.middleware", message) from error
    return made
