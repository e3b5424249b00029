"""One configuration as objects, from its start under traffic to the day its successor has taken over."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from gateway.config.document import Config
from gateway.config.problems import ConfigError
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.pipeline import Compiler, Route, gateway_wide, may_keep_routes
from gateway.router import RouteTable
from gateway.routes import route_rule, upstream_names
from gateway.runtime import Runtime
from gateway.upstream.pool import Upstream
from gateway.wiring.upstreams import upstream_settings


class Generation:
    """One configuration as objects: the application that serves it, its upstreams, and what has to be closed."""

    def __init__(self, config: Config, runtime: Runtime, previous: Generation | None) -> None:
        self.config = config
        self._runtime = runtime
        self.upstreams = _upstreams(config, runtime, previous)
        self._fresh = [upstream for name, upstream in self.upstreams.items() if not _is_kept(previous, name, upstream)]
        is_alike = previous is not None and may_keep_routes(previous.config, config)
        earlier = previous.routes if previous is not None and is_alike else {}
        compiler = Compiler(config, runtime, self.upstreams, earlier)
        self.routes: dict[str, Route] = {route.name: compiler.route(route) for route in config.routes}
        self.table = RouteTable(
            route_rule(route, index, self.routes[route.name]) for index, route in enumerate(config.routes)
        )
        self.in_flight = 0
        """Exchanges that began on this generation and have not ended."""
        self.on_idle: Callable[[], None] | None = None
        """Called when the last one has ended, once somebody waits for that."""
        self.app, self.express = gateway_wide(
            config, runtime, self.table, enter=self._enter, count=self._count, leave=self._leave
        )

    def _enter(self, scope: Scope, exchange: Exchange) -> None:
        self._count()

    def _count(self) -> None:
        self.in_flight += 1
        self._runtime.in_flight.count += 1

    def _leave(self, exchange: Exchange) -> None:
        self.in_flight -= 1
        self._runtime.in_flight.count -= 1
        if self.on_idle is not None and not self.in_flight:
            self.on_idle()

    async def start(self) -> None:
        """Start the upstreams that no earlier generation runs. Raises ConfigError when one cannot be."""
        for upstream in self._fresh:
            try:
                await upstream.start()
            except (OSError, ValueError, RuntimeError, GatewayError) as error:
                message = f"cannot be started: {error}"
                raise ConfigError.at(f"upstreams.{upstream.settings.name}", message) from error
        self._runtime.upstreams = self.upstreams
        self._runtime.forget_routes_but(self.routes)

    async def abandon(self) -> None:
        """Close what this generation alone has, after a start that failed."""
        for upstream in self._fresh:
            await upstream.aclose()

    async def aclose(self, successor: Generation | None) -> None:
        """Close what ``successor`` does not go on using."""
        kept_routes = set() if successor is None else {id(route) for route in successor.routes.values()}
        for route in self.routes.values():
            if id(route) not in kept_routes:
                for mirror in route.mirrors:
                    await mirror.aclose()
        kept = set() if successor is None else {id(upstream) for upstream in successor.upstreams.values()}
        for upstream in self.upstreams.values():
            if id(upstream) not in kept:
                await upstream.aclose()


def _upstreams(config: Config, runtime: Runtime, previous: Generation | None) -> dict[str, Upstream]:
    """Each upstream: the running one where nothing changed, its successor where something did."""
    upstreams = {}
    for name, table in config.upstreams.items():
        budgets = [route.retry.budget for route in config.routes if name in upstream_names(route) and route.retry]
        settings = upstream_settings(name, table, retry_budget=max(budgets, default=0.2), sticky_key=runtime.secret)
        old = previous.upstreams.get(name) if previous is not None else None
        try:
            if old is None:
                upstreams[name] = runtime.make_upstream(settings)
            else:
                upstreams[name] = old if old.settings == settings else old.successor(settings)
        except (OSError, ValueError) as error:
            # An application that cannot be imported, a certificate that cannot be read.
            raise ConfigError.at(f"upstreams.{name}", str(error)) from error
    return upstreams


def _is_kept(previous: Generation | None, name: str, upstream: Upstream) -> bool:
    return previous is not None and previous.upstreams.get(name) is upstream
