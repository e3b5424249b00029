"""The admin listener of ``gateway run``, as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.upstream import ScriptedConnection, ScriptedUpstream, response

pytestmark = pytest.mark.anyio

CONFIG = """
[server]
bind = "unix:{folder}/main.sock"
access_log = "off"
[server.limits]
max_connections = 100
[admin]
bind = "unix:{folder}/admin.sock"
token = "t0ken"
[[routes]]
name = "all"
path = "/*"
upstream = "{url}"
"""


async def test_ready_turns_503_while_requests_are_finished_and_metrics_show_their_connections(tmp_path: Path) -> None:
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        arrived.set()
        await go_on.wait()
        await connection.send(response(body=b"done"))

    async with ScriptedUpstream(script) as upstream:
        config = tmp_path / "routes.toml"
        config.write_text(CONFIG.format(folder=tmp_path, url=upstream.url))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "run", str(config), "--no-reload", stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stderr is not None
            assert b"listening" in await process.stderr.readline()
            admin = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "admin.sock")), base_url="http://localhost"
            )
            main = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "main.sock")), base_url="http://localhost"
            )
            async with admin, main:
                assert (await admin.get("/ready")).status_code == 200
                assert (await admin.get("/metrics")).status_code == 401
                running = asyncio.create_task(main.get("/"))
                await arrived.wait()
                exposed = (await admin.get("/metrics", headers={"Authorization": "Bearer t0ken"})).text
                assert "gateway_client_connections 1.0" in exposed
                assert "gateway_in_flight 1.0" in exposed
                os.kill(process.pid, signal.SIGTERM)
                # Each question is a turn of the process's event loop: the signal is seen after few of them.
                answers = [(await admin.get("/ready")).status_code for _ in range(100)]
                assert answers[-1] == 503, answers
                assert (await admin.get("/live")).status_code == 200
                go_on.set()
                assert (await running).text == "done"
            await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
