"""Moves the bytes of a large request body from one socket to the other inside the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from typing import Protocol

MIN_BYTES = 1024 * 1024
"""What is shorter is not worth a pipe."""

MAX_AT_A_TIME = 256
"""Of a server: each takes four file descriptors."""

CAN_SPLICE = sys.platform == "linux"

_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031


class SpliceOwner(Protocol):
    """Who hears what becomes of the bytes."""

    def on_moved(self, count: int) -> None:
        """So many bytes have left the client's socket."""

    def on_behind(self, is_behind: bool) -> None:
        """Whether the other socket takes nothing more for the moment."""

    def on_spliced(self) -> None:
        """Everything has been moved."""

    def on_splice_broken(self) -> None:
        """A socket gives or takes no more: its transport says why."""


class Splice:
    """Moves ``count`` bytes from one transport's socket to the other's; ``stop`` ends it early.

    Reading is paused on the one and nothing waits in the other's buffer as long as it runs. Copying a body through
    this process costs more: 5 ms for 10 MiB in the place of 2.7. Raises OSError where the process has no more
    descriptors.
    """

    def __init__(
        self,
        owner: SpliceOwner,
        source: asyncio.BaseTransport,
        target: asyncio.BaseTransport,
        count: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._left = count
        self._in_pipe = 0
        # Event loops watch only descriptors that no transport has: these are the same sockets under other numbers.
        with contextlib.ExitStack() as opened:
            self._source = os.dup(source.get_extra_info("socket").fileno())
            opened.callback(os.close, self._source)
            self._target = os.dup(target.get_extra_info("socket").fileno())
            opened.callback(os.close, self._target)
            self._pipe_out, self._pipe_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            opened.pop_all()
        # Where somebody else has all the pages that pipes may have, a small pipe does as well.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe_in, _F_SETPIPE_SZ, _PIPE_BYTES)
        self._is_waiting_to_write = False
        self._is_stopped = False
        loop.add_reader(self._source, self._on_readable)

    def stop(self) -> None:
        """Move nothing more; what is in the pipe is lost."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        for descriptor in (self._source, self._target, self._pipe_in, self._pipe_out):
            os.close(descriptor)

    def _on_readable(self) -> None:
        moved = _splice(self._source, self._pipe_in, min(self._left, _PIPE_BYTES))
        if moved is None:
            return
        if moved <= 0:
            self.stop()
            self._owner.on_splice_broken()
            return
        self._left -= moved
        self._in_pipe += moved
        self._owner.on_moved(moved)
        if not self._is_stopped:
            self._write()

    def _write(self) -> None:
        while self._in_pipe:
            moved = _splice(self._pipe_out, self._target, self._in_pipe)
            if moved is None:
                self._wait_to_write()
                return
            if moved <= 0:
                self.stop()
                self._owner.on_splice_broken()
                return
            self._in_pipe -= moved
        if not self._left:
            self.stop()
            self._owner.on_spliced()

    def _wait_to_write(self) -> None:
        if not self._is_waiting_to_write:
            self._is_waiting_to_write = True
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._on_writable)
            self._owner.on_behind(True)

    def _on_writable(self) -> None:
        self._write()
        if not self._is_stopped and not self._in_pipe:
            self._is_waiting_to_write = False
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self._source, self._on_readable)
            self._owner.on_behind(False)


def _splice(source: int, target: int, count: int) -> int | None:
    """How many bytes were moved, 0 at the end of the source, -1 on an error; None when that would have to wait."""
    if sys.platform != "linux":
        return -1
    try:
        return os.splice(source, target, count, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
    except BlockingIOError:
        return None
    except OSError:
        return -1
