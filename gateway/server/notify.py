"""Tells systemd what the service is doing: the sd_notify protocol."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify_ready(environ: Mapping[str, str] = os.environ) -> None:
    """The service has started, or a reload is finished."""
    _notify(environ, "READY=1")


def notify_reloading(environ: Mapping[str, str] = os.environ) -> None:
    """The configuration is being read anew; to be followed by ``notify_ready``."""
    _notify(environ, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_stopping(environ: Mapping[str, str] = os.environ) -> None:
    """The service has begun to stop."""
    _notify(environ, "STOPPING=1")


def _notify(environ: Mapping[str, str], state: str) -> None:
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # "@" stands for the NUL byte of an abstract address.
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode("ascii"))
        except OSError:
            # Nobody listens: the service runs all the same.
            return
