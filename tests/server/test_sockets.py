"""Listening sockets, systemd, file limits, and the redirect listener."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
import uvloop

from gateway.server.notify import notify_ready, notify_reloading, notify_stopping
from gateway.server.redirect import RedirectToHttps
from gateway.server.sockets import (
    BindFailed,
    close_sockets,
    inherited_sockets,
    listen,
    open_sockets,
    raise_file_limit,
    shown,
)
from tests.support.messages import call, http_scope


def test_every_kind_of_address_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    sockets = open_sockets(["127.0.0.1:0", f"unix:{path}"])
    try:
        port = sockets[0].getsockname()[1]
        assert [shown(sock, "http") for sock in sockets] == [f"http://127.0.0.1:{port}", f"unix:{path}"]
        socket.create_connection(("127.0.0.1", port)).close()
    finally:
        close_sockets(sockets)
    assert not path.exists()


async def _turns_until_all_are_in(bind: str, clients: int, processes: int) -> int:
    """Turns of the event loop until as many clients, all of whom have connected before, have been let in."""
    let_in, turns, loop = 0, 0, asyncio.get_running_loop()
    done = loop.create_future()

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal let_in
            let_in += 1
            transport.close()
            if let_in == clients:
                done.set_result(None)

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not done.done():
            loop.call_soon(turn)

    (sock,) = open_sockets([bind])
    waiting = [socket.socket(sock.family) for _ in range(clients)]
    for client in waiting:
        client.connect(sock.getsockname())
    open_files = len(os.listdir("/dev/fd"))
    servers = await listen(Counting, sock, processes=processes)
    turn()
    await done
    for server in servers:
        server.close()
    for client in waiting:
        client.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sock.fileno() == -1
    # The event loop has one more of its own by now, and nothing else is left open.
    assert len(os.listdir("/dev/fd")) <= open_files - clients
    return turns


@pytest.mark.parametrize(("processes", "least", "most"), [(1, 8, 16), (2, 16, 24), (8, 64, 80), (20, 64, 80)])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_several_connections_are_let_in_at_a_time(
    kind: str, processes: int, least: int, most: int, tmp_path: Path
) -> None:
    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/gw.sock"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert least <= runner.run(_turns_until_all_are_in(bind, 64, processes)) <= most


def test_ipv6_stands_in_brackets() -> None:
    try:
        sockets = open_sockets(["[::1]:0"])
    except BindFailed:
        pytest.skip("no IPv6 here")
    port = sockets[0].getsockname()[1]
    assert shown(sockets[0], "https") == f"https://[::1]:{port}"
    close_sockets(sockets)


def test_port_in_use_is_one_clear_line_and_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    (taken,) = open_sockets(["127.0.0.1:0"])
    port = taken.getsockname()[1]
    with pytest.raises(BindFailed) as caught:
        open_sockets([f"unix:{path}", f"127.0.0.1:{port}"])
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: address already in use"
    assert not path.exists()
    close_sockets([taken])


def test_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gw.sock"
    (first,) = open_sockets([address])
    with pytest.raises(BindFailed, match="address already in use"):
        open_sockets([address])
    first.close()
    second = open_sockets([address])
    close_sockets(second)


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    path.write_text("precious")
    with pytest.raises(BindFailed, match="no socket"):
        open_sockets([f"unix:{path}"])
    assert path.read_text() == "precious"


@pytest.mark.parametrize("address", ["8080", "host", "unix:", "127.0.0.1:99999"])
def test_nonsense_is_no_address(address: str) -> None:
    with pytest.raises(BindFailed, match="cannot listen on"):
        open_sockets([address])


def test_sockets_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDNAMES": "a", "OTHER": "x"}
    assert inherited_sockets(environ) == {}
    assert environ == {"OTHER": "x"}


def test_file_limit_warns_when_it_is_too_low() -> None:
    assert raise_file_limit(0) is None
    warning = raise_file_limit(2**40)
    assert warning is None or "max_connections" in warning


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(tmp_path / "notify")
        sock.bind(path)
        environ = {"NOTIFY_SOCKET": path}
        notify_ready(environ)
        notify_reloading(environ)
        notify_stopping(environ)
        told = [sock.recv(100) for _ in range(3)]
    assert told[0] == b"READY=1"
    assert told[1].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert told[2] == b"STOPPING=1"
    notify_ready(environ)
    notify_ready({})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("port", "host", "target", "location"),
    [
        (443, b"a.example", b"/x?y", b"https://a.example/x?y"),
        (443, b"a.example:80", b"/", b"https://a.example/"),
        (8443, b"a.example", b"//b/?", b"https://a.example:8443//b/?"),
        (443, b"[::1]:80", b"*", b"https://[::1]/"),
    ],
)
async def test_redirect_keeps_host_and_target(port: int, host: bytes, target: bytes, location: bytes) -> None:
    scope = http_scope(target=target, headers=[(b"host", host)], extensions={"gateway.target": target})
    sent = await call(RedirectToHttps(port), scope)
    assert sent.status == 308
    assert sent.values(b"location") == [location]


@pytest.mark.anyio
@pytest.mark.parametrize("hosts", [[], [b""], [b"a", b"b"], [b"a/b"], [b"u@a"], [b"a:x"], [b"[zz]"], [b"a\\b"]])
async def test_redirect_needs_a_host(hosts: list[bytes]) -> None:
    scope = http_scope(headers=[(b"host", host) for host in hosts], extensions={"gateway.target": b"/"})
    assert (await call(RedirectToHttps(), scope)).status == 400
