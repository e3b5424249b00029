"""Exchanges that are made twice: on the long way through every layer, and on the short way."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from gateway.app import Gateway
from gateway.exchange import Exchange
from tests.support.gateway import GATEWAY, Answer, Client, Served, request, serving
from tests.support.upstream import ScriptedUpstream, respond

Fields = list[tuple[bytes, bytes]]

_OWN = frozenset([b"date", b"via"])
_TTL = re.compile(rb"; ttl=-?\d+")


class Ways:
    """Counts the exchanges that ended on the short way."""

    def __init__(self, served: Served) -> None:
        self.short = 0
        self._express = served.gateway.generation.express
        self._record = self._express.record
        self._express.record = self._count  # type: ignore[method-assign]

    def _count(self, exchange: Exchange) -> None:
        self.short += 1
        self._record(exchange)


def close_short_ways(served: Served) -> None:
    """Have every exchange pass through the layers."""
    for route in served.gateway.generation.routes.values():
        route.lane = None


@dataclass
class Seen:
    """What the two ends of an exchange saw, and whether it took the short way."""

    asked: tuple[bytes, bytes, Fields]
    answered: tuple[int, Fields, bytes, bool]
    recorded: tuple[Any, ...]
    was_short: bool


async def second_exchange(
    config: Mapping[str, Any],
    upstream: ScriptedUpstream,
    raw: bytes,
    *,
    server: str = GATEWAY,
    mounted: Callable[[Gateway], ASGIApp] | None = None,
    short: bool,
) -> Seen:
    """The second of two equal exchanges on one connection: by then connections idle and sections are known."""
    async with serving(config, server=server, mounted=mounted) as served:
        if not short:
            close_short_ways(served)
        ways = Ways(served)
        async with served.client() as client:
            for _ in range(2):
                before, asked = ways.short, len(upstream.requests)
                client.write(raw)
                answer = await client.answer()
        await served.ended(2)
        exchange = served.exchanges[1]
        own_id = exchange.request_id.encode()
        sent = upstream.requests[-1] if len(upstream.requests) > asked else None
        return Seen(
            asked=(b"", b"", []) if sent is None else (sent.method, sent.target, _normal(sent.fields, own_id)),
            answered=(
                answer.status,
                _normal(answer.fields, own_id),
                answer.body.replace(own_id, b"id"),
                answer.keeps_alive,
            ),
            recorded=(
                exchange.route,
                exchange.upstream,
                [(attempt.outcome, attempt.status) for attempt in exchange.attempts],
                exchange.status,
                exchange.outcome,
                exchange.body_bytes_out,
                (exchange.cache, exchange.cache_detail),
                exchange.client,
                exchange.host,
                exchange.scheme,
                exchange.user,
                exchange.target,
                dict(exchange.params),
            ),
            was_short=ways.short > before,
        )


def _normal(fields: Fields, own_id: bytes) -> Fields:
    """Fields in an order of their own, without what differs from one exchange to the next."""
    return sorted(
        (name, b"" if name in _OWN else _TTL.sub(b"", value.replace(own_id, b"id")))
        for name, value in fields
        if name != b"age"
    )


@contextlib.asynccontextmanager
async def warm(config: Mapping[str, Any], *, server: str = GATEWAY) -> AsyncIterator[tuple[Served, Ways, Client]]:
    """A gateway with a connection to its upstream that idles, and a client whose header section it knows."""
    async with serving(config, server=server) as served, served.client() as client:
        client.write(request())
        answer = await client.answer()
        assert answer.complete
        yield served, Ways(served), client


__all__ = ["Answer", "respond"]
