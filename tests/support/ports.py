"""Ports for servers that have to know theirs before they start, or keep it when they start again."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_FIRST = 32768


def port_of_its_own() -> int:
    """A free port of 127.0.0.1 that the system gives to nobody who does not ask for it by number.

    One that the system has chosen may be another test's a moment later: the next connection's, or a listener's.
    """
    first = _USUAL_FIRST
    with contextlib.suppress(OSError):
        first = int(_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(first, 20_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
