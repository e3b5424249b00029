"""Servers that die, hang and refuse under load, and no client that notices."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from pathlib import Path

import pytest

from tests.support.gateway import Client, request
from tests.wire.processes import gateway_process, origin_process, wait_until_open
from tests.wire.support import STOCK

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("anyio_backend", [STOCK]),
]

SECONDS = 20.0
CONNECTIONS = 16

CONFIG = """
[server]
bind = "127.0.0.1:0"
access_log = "off"
[upstreams.shop]
endpoints = [{endpoints}]
outlier = {{ failures = 3, ejection = "2s" }}
[[routes]]
path = "/*"
upstream = "shop"
compress = false
retry = {{ attempts = 4, attempt_timeout = "1s", budget = 1.0 }}
"""


async def tell(port: int, mode: str) -> None:
    """Have a server hang, refuse or answer from now on."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    client.write(request("POST", b"/control/" + mode.encode(), body=b""))
    assert (await client.answer("POST")).status == 200
    await client.close()


async def test_no_idempotent_request_fails_while_servers_die_hang_and_refuse(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(origin_process(name, tmp_path)) for name in "ABC"}
        endpoints = ", ".join(f'"http://127.0.0.1:{port}"' for _, port in servers.values())
        _, port = stack.enter_context(gateway_process(CONFIG.format(endpoints=endpoints), tmp_path))
        shares: collections.Counter[str] = collections.Counter()
        by_second: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        failures: list[str] = []
        started = time.monotonic()

        async def load() -> None:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            while time.monotonic() - started < SECONDS:
                client.write(request())
                try:
                    answer = await client.answer()
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    failures.append(f"{time.monotonic() - started:.1f} s: {error!r}")
                    client = Client(*await asyncio.open_connection("127.0.0.1", port))
                    continue
                if answer.status != 200 or not answer.complete:
                    failures.append(f"{time.monotonic() - started:.1f} s: {answer.status} {answer.body[:200]!r}")
                shares[answer.body.decode()] += 1
                by_second[int(time.monotonic() - started)][answer.body.decode()] += 1
            await client.close()

        async def at(second: float) -> None:
            await asyncio.sleep(max(0.0, started + second - time.monotonic()))

        async def trouble() -> None:
            process, own_port = servers["A"]
            await at(2)
            process.kill()
            await at(4)
            await tell(servers["B"][1], "hang")
            await at(6)
            process.start()
            await asyncio.to_thread(wait_until_open, own_port)
            await at(10)
            await tell(servers["B"][1], "ok")
            await at(11)
            await tell(servers["C"][1], "503")
            await at(16)
            await tell(servers["C"][1], "ok")

        async with asyncio.TaskGroup() as group:
            group.create_task(trouble())
            for _ in range(CONNECTIONS):
                group.create_task(load())
        for second, counts in sorted(by_second.items()):
            parts = "  ".join(f"{name} {counts[name] / counts.total():6.1%}" for name in "ABC")
            print(f"{second:>3} s  {parts}  of {counts.total()}")
        total = sum(shares.values())
        print(
            f"\n{total} requests: " + ", ".join(f"{name} {count / total:.1%}" for name, count in sorted(shares.items()))
        )
        assert failures == []
        assert set(shares) == {"A", "B", "C"}
        assert min(shares.values()) > total * 0.05
