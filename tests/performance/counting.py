"""What a thread does, counted by the interpreter itself: Python functions called, and system calls on sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

_KINDS = {"recv": "reads", "recv_into": "reads", "recvmsg": "reads", "send": "writes", "sendmsg": "writes"}
_KINDS |= {"poll": "waits", "control": "waits"}
_OWNERS = (socket.socket, *(getattr(select, name) for name in ("epoll", "kqueue") if hasattr(select, name)))


class Count(NamedTuple):
    """How often something happened."""

    calls: float
    """Python functions that were called, and coroutines that were resumed."""
    reads: float
    writes: float
    waits: float
    """System calls that wait for events: turns of the event loop."""
    others: float
    """Further methods of sockets and pollers: accept, setsockopt, register, close, and some that are no system call."""

    def __sub__(self, other: Count) -> Count:
        return Count._make(mine - theirs for mine, theirs in zip(self, other, strict=True))

    def per(self, number: int) -> Count:
        """For each of ``number``."""
        return Count._make(value / number for value in self)


class Counting:
    """Counts while ``running`` in the thread that asked for it."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Count._fields, 0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count until the block ends; what profiled the thread before goes on afterwards."""
        before = sys.getprofile()
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(before)

    def read(self) -> Count:
        """The counts so far."""
        return Count(**self._counts)

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self._counts["calls"] += 1
        elif event == "c_call" and isinstance(getattr(arg, "__self__", None), _OWNERS):
            self._counts[_KINDS.get(arg.__name__, "others")] += 1
