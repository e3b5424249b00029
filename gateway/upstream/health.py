"""Active health: every endpoint is asked again and again whether it is well."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any

import httpx

from gateway.upstream.endpoint import Endpoint, HealthState
from gateway.upstream.settings import HealthSettings

_JITTER = 0.1
_FIRST_WITHIN_S = 1.0
_USER_AGENT = (b"user-agent", b"gateway-health-check")

logger = logging.getLogger("gateway.upstream")


class HealthChecker:
    """Probes endpoints through their own transports; ``sweep`` starts what is due, on every tick.

    A redirect is an answer like any other, and not followed. ``on_change`` hears of an endpoint that went out or came
    back. Times are late by at most one tick.
    """

    def __init__(
        self,
        settings: HealthSettings,
        endpoints: Callable[[], Iterable[Endpoint]],
        *,
        upstream: str,
        rng: random.Random,
        on_change: Callable[[Endpoint], None],
    ) -> None:
        self.settings = settings
        self._endpoints = endpoints
        self._upstream = upstream
        self._rng = rng
        self._on_change = on_change
        self._probes: dict[Endpoint, _Probe] = {}

    def sweep(self, now: float) -> None:
        """Start the probes that are due, and end those that take too long."""
        interval_s = self.settings.interval_s
        for probe in self._probes.values():
            probe.expire(now)
        for endpoint in self._endpoints():
            health = endpoint.health
            # No time yet, or one that a longer interval set before a reload.
            if health.due is None or health.due > now + 2 * interval_s:
                # Many gateways that start together should not ask together.
                health.due = now + self._rng.uniform(0.0, min(interval_s, _FIRST_WITHIN_S))
            if endpoint in self._probes or now < health.due:
                continue
            health.due = now + interval_s * self._rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)
            probe = self._probes[endpoint] = _Probe(now + self.settings.timeout_s)
            probe.task = asyncio.create_task(self._run(endpoint, probe))

    async def aclose(self) -> None:
        """End every probe."""
        tasks = [probe.task for probe in self._probes.values() if probe.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._probes.clear()

    async def _run(self, endpoint: Endpoint, probe: _Probe) -> None:
        try:
            error = await self._ask(endpoint)
        except asyncio.CancelledError:
            if not probe.is_expired:
                raise
            error = f"no answer within {self.settings.timeout_s:g} s"
        except Exception as failure:
            # Whatever a transport raises, the endpoint did not prove that it is well.
            error = str(failure) or type(failure).__name__
        finally:
            self._probes.pop(endpoint, None)
        self._judge(endpoint, error)

    async def _ask(self, endpoint: Endpoint) -> str:
        """What is wrong with the endpoint; empty when it is well."""
        settings = self.settings
        target = settings.path.encode("ascii")
        fields = [(b"host", endpoint.authority), _USER_AGENT]
        own = {name.lower() for name, _ in settings.headers}
        request = httpx.Request(
            settings.method,
            endpoint.url.copy_with(raw_path=target),
            headers=[field for field in fields if field[0] not in own] + list(settings.headers),
            extensions={
                "target": target,
                "timeout": dict.fromkeys(("connect", "head", "read", "write", "pool"), settings.timeout_s),
            },
        )
        response = await endpoint.transport.handle_async_request(request)
        stream: Any = response.stream
        await stream.aclose()
        status = response.status_code
        return "" if any(low <= status <= high for low, high in settings.status) else f"status {status}"

    def _judge(self, endpoint: Endpoint, error: str) -> None:
        if error:
            endpoint.last_error = f"health check: {error}"
        if not note(endpoint.health, not error, rise=self.settings.rise, fall=self.settings.fall):
            return
        if error:
            logger.warning("endpoint %s of upstream %s is unhealthy: %s", endpoint.label, self._upstream, error)
        else:
            logger.info("endpoint %s of upstream %s is healthy again", endpoint.label, self._upstream)
        self._on_change(endpoint)


class _Probe:
    """One question that is waiting for its answer."""

    __slots__ = ("_deadline", "is_expired", "task")

    def __init__(self, deadline: float) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_expired = False
        self._deadline = deadline

    def expire(self, now: float) -> None:
        """Give up when the deadline has passed."""
        if now >= self._deadline and self.task is not None and not self.is_expired:
            self.is_expired = True
            self.task.cancel()


def note(health: HealthState, ok: bool, *, rise: int, fall: int) -> bool:
    """Count one result; True when the endpoint's state changes with it."""
    if ok:
        health.passed += 1
        health.failed = 0
        if health.healthy or health.passed < rise:
            return False
    else:
        health.failed += 1
        health.passed = 0
        if not health.healthy or health.failed < fall:
            return False
    health.healthy = ok
    return True
