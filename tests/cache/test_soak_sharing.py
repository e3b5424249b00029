"""Users with and without credentials, some leaving at any moment, before one store: nobody gets another's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cache.test_gateway import cached
from tests.stores.redis_server import REDIS_SERVER, running_redis
from tests.support.gateway import Served, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, response

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

USERS = 40
REQUESTS_EACH = 150
TARGETS = 6


async def personal(connection: ScriptedConnection) -> None:
    """Names the target and the credentials, in bodies of any size, under directives that forget to say private."""
    rng = random.Random(connection.index)
    while True:
        seen = await connection.read_request()
        who = b"|".join(b",".join(seen.values(name)) for name in (b"authorization", b"cookie"))
        body = b"%b %b %b" % (seen.target, who, b"x" * rng.choice([0, 5000, 200_000]))
        lifetime = (b"Cache-Control", b"max-age=%d, stale-while-revalidate=1" % rng.choice([0, 1, 60]))
        answer = response(200, [lifetime, (b"ETag", b'"%d"' % rng.randrange(3))], body)
        if rng.random() < 0.02:
            # Broken off in the middle.
            await connection.send(answer[: len(answer) // 2])
            connection.reset()
            return
        half = rng.randrange(len(answer))
        await connection.send(answer[:half])
        await asyncio.sleep(rng.random() * 0.02)
        await connection.send(answer[half:])


class Crowd:
    """The users of some gateways, and what they saw."""

    def __init__(self, *gateways: Served) -> None:
        self.gateways = gateways
        self.answered = 0
        self.wrong: list[object] = []

    async def user(self, number: int) -> None:
        """One user, who is somebody in some requests and nobody in others."""
        rng = random.Random(number)
        for _ in range(REQUESTS_EACH):
            fields, who = rng.choice(
                [
                    ([(b"Authorization", b"u%d" % number)], b"u%d|" % number),
                    ([(b"Cookie", b"id=u%d" % number)], b"|id=u%d" % number),
                    ([], b"|"),
                    ([], b"|"),
                ]
            )
            target = b"/%d" % rng.randrange(TARGETS)
            leaves_after_s = rng.random() * 0.05 if rng.random() < 0.2 else None
            await self._ask(rng.choice(self.gateways), target, fields, who, leaves_after_s)

    async def _ask(
        self, served: Served, target: bytes, fields: list[tuple[bytes, bytes]], who: bytes, leaves_after_s: float | None
    ) -> None:
        async with served.client() as client:
            client.write(request(target=target, fields=fields))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(leaves_after_s):
                    answer = await client.answer()
                    self.answered += answer.complete
                    if answer.status == 200 and not answer.body.startswith(
                        b"%b %b " % (target, who)[: len(answer.body)]
                    ):
                        self.wrong.append((target, who, answer.body[:80]))


@contextlib.asynccontextmanager
async def sharing(origin: str, folder: Path, *, redis: bool) -> AsyncIterator[list[Served]]:
    """One gateway with a memory store, or two that share a Redis."""
    table = cached(origin)
    async with contextlib.AsyncExitStack() as stack:
        if redis:
            port = stack.enter_context(running_redis(folder))
            table["cache"] = {"store": f"redis://127.0.0.1:{port}/0", "timeout": "5s", "prefix": secrets.token_hex(4)}
        yield [await stack.enter_async_context(serving(table)) for _ in range(2 if redis else 1)]


@pytest.mark.parametrize(
    "redis",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server on PATH")),
    ],
)
async def test_nobody_gets_what_is_somebody_elses(tmp_path: Path, redis: bool) -> None:
    async with (
        ScriptedUpstream(personal) as origin,
        sharing(origin.url, tmp_path, redis=redis) as gateways,
    ):
        crowd = Crowd(*gateways)
        await asyncio.gather(*(crowd.user(number) for number in range(USERS)))
        assert not crowd.wrong
        assert crowd.answered > USERS * REQUESTS_EACH / 2
        for served in gateways:
            cache = served.gateway.cache
            await until(lambda cache=cache: not cache.background)  # type: ignore[misc]
            assert not cache.flights and not cache.gathered_bytes
            await served.at_rest()
