"""Clients that leave while nothing is read from them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.server.hang_up import HangUps


class Transport(asyncio.BaseTransport):
    def __init__(self, sock: socket.socket | None) -> None:
        super().__init__({"socket": sock})


class Paused:
    def __init__(self) -> None:
        self.hang_ups = 0

    def on_hang_up(self) -> None:
        self.hang_ups += 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's end and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["fin", "rst"])
def test_an_end_behind_unread_bytes_is_noticed(pair: tuple[socket.socket, socket.socket], leave: Any) -> None:
    client, server = pair
    hang_ups, paused = HangUps(), Paused()
    hang_ups.add(paused, Transport(server))
    client.sendall(b"unread")
    hang_ups.sweep()
    assert paused.hang_ups == 0
    leave(client)
    hang_ups.sweep()
    assert paused.hang_ups == 1


def test_who_reads_again_is_not_told(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    hang_ups, paused = HangUps(), Paused()
    hang_ups.discard(paused, hang_ups.add(paused, Transport(server)))
    hang_ups.discard(paused, -1)
    client.close()
    hang_ups.sweep()
    assert paused.hang_ups == 0 and len(hang_ups) == 0


def test_a_descriptor_belongs_to_who_has_it_now(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    hang_ups, before, now = HangUps(), Paused(), Paused()
    descriptor = hang_ups.add(before, Transport(server))
    assert hang_ups.add(now, Transport(server)) == descriptor
    hang_ups.discard(before, descriptor)
    client.close()
    hang_ups.sweep()
    assert (before.hang_ups, now.hang_ups) == (0, 1)


def test_what_is_no_socket_is_not_watched() -> None:
    hang_ups = HangUps()
    assert hang_ups.add(Paused(), Transport(None)) == -1
    hang_ups.sweep()
    assert len(hang_ups) == 0
