"""Several serving processes on the same sockets, kept running by one that serves nothing itself.

Workers are forked, before any event loop or thread exists here, and take their sockets with them: a connection that
waits to be accepted survives the end of any one of them. The application is made in the worker, so nothing needs to be
importable or picklable. A restart therefore runs the code that was loaded at first; it reads files and settings anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from gateway.server.notify import notify_ready, notify_reloading, notify_stopping
from gateway.server.worker import StartFailed, Worker

READY_TIMEOUT_S = 60.0
_KILL_AFTER_S = 10.0
"""Beyond the shutdown timeout."""
_LONG_LIVED_S = 10.0
"""A worker that lived this long is restarted at once."""
_MAX_BACKOFF_S = 10.0
_POLL_S = 0.5

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)

logger = logging.getLogger("gateway.server")


class _Process:
    """One worker as the supervisor sees it."""

    def __init__(self, pid: int, ready_pipe: int) -> None:
        self.pid = pid
        self.ready_pipe = ready_pipe
        self.started = time.monotonic()
        self.ready = False

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Supervisor:
    """Runs ``count`` workers on ``sockets`` until SIGTERM or SIGINT; raises StartFailed when none can start.

    ``ready`` is called once, when all of them take requests. SIGHUP reaches every worker, SIGUSR2 replaces them one by
    one: each new one takes requests before an old one drains.
    """

    def __init__(
        self,
        worker: Worker,
        count: int,
        sockets: Sequence[socket.socket],
        side_sockets: Sequence[Sequence[socket.socket]],
        *,
        ready: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._count = count
        self._sockets = sockets
        self._side_sockets = side_sockets
        self._on_ready: Callable[[], None] | None = ready
        self._processes: dict[int, _Process] = {}
        self._retiring: dict[int, _Process] = {}
        self._to_replace: list[int] = []
        self._replacement: int | None = None
        self._quick_deaths = 0
        self._start_at = 0.0
        self._stop_signals = 0
        self._kill_at = 0.0
        self._failed = False
        self._signals: list[int] = []
        self._wakeup_read, self._wakeup_write = os.pipe()
        self._alive_read, self._alive_write = os.pipe()
        for fd in (self._wakeup_read, self._wakeup_write):
            os.set_blocking(fd, False)

    def run(self) -> None:
        previous = {number: signal.signal(number, self._on_signal) for number in _HANDLED}
        previous_fd = signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        try:
            # The others when it is ready: what keeps one from starting is then said once.
            self._start()
            while self._processes or self._retiring or not self._stop_signals:
                self._wait()
                self._handle_signals()
                self._reap()
                self._fill_up()
                self._roll()
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            for process in (*self._processes.values(), *self._retiring.values()):
                process.signal(signal.SIGKILL)
                os.close(process.ready_pipe)
            for fd in (self._wakeup_read, self._wakeup_write, self._alive_read, self._alive_write):
                os.close(fd)
        if self._failed:
            raise StartFailed("a worker did not start")

    # Workers.

    def _start(self) -> _Process:
        ready_read, ready_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes now is for the child once its handlers are its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._become_worker(ready_write)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        os.close(ready_write)
        process = _Process(pid, ready_read)
        self._processes[pid] = process
        return process

    def _become_worker(self, ready_pipe: int) -> None:
        """In the child: serve, and end without running anything of the supervisor's."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HANDLED:
                # Until the event loop has handlers: only SIGTERM may end a worker that is starting.
                is_end = number in (signal.SIGTERM, signal.SIGCHLD)
                signal.signal(number, signal.SIG_DFL if is_end else signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            for process in (*self._processes.values(), *self._retiring.values()):
                os.close(process.ready_pipe)
            # The end of the supervisor is the end of this pipe: no other process may hold it open.
            os.close(self._alive_write)
            self._worker.run(
                self._sockets,
                self._side_sockets,
                ready=lambda: _write(ready_pipe, b"ready"),
                parent_alive=self._alive_read,
            )
            status = 0
        except StartFailed as failure:
            logger.error("%s", failure)
        except BaseException:
            logger.exception("a worker failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _wait(self) -> None:
        """Sleep until a signal, a worker that becomes ready, or the next thing to do."""
        waiting = [process.ready_pipe for process in self._processes.values() if not process.ready]
        readable, _, _ = select.select([self._wakeup_read, *waiting], [], [], _POLL_S)
        if self._wakeup_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup_read, 4096)
        for process in self._processes.values():
            if process.ready_pipe in readable and os.read(process.ready_pipe, 16):
                process.ready = True
        if self._on_ready is not None and len(self._processes) == self._count and self._all_ready():
            announce, self._on_ready = self._on_ready, None
            announce()

    def _reap(self) -> None:
        for pid in [*self._processes, *self._retiring]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            was_retired = pid in self._retiring
            process = self._retiring.pop(pid) if was_retired else self._processes.pop(pid)
            os.close(process.ready_pipe)
            if self._stop_signals:
                continue
            if pid == self._replacement:
                logger.error("the new worker %d did not start; the old ones stay", pid)
                self._replacement = None
                self._to_replace.clear()
            elif not was_retired:
                self._on_death(process, os.waitstatus_to_exitcode(status))

    def _on_death(self, process: _Process, status: int) -> None:
        if self._on_ready is not None:
            # At first start: it would only fail again.
            self._failed = True
            self._signals.append(signal.SIGTERM)
            return
        lived_long = time.monotonic() - process.started >= _LONG_LIVED_S
        self._quick_deaths = 0 if lived_long else self._quick_deaths + 1
        delay = 0.0 if self._quick_deaths < 2 else min(0.25 * 2**self._quick_deaths, _MAX_BACKOFF_S)
        self._start_at = time.monotonic() + delay
        logger.error("worker %d ended with status %d; another starts in %.1f s", process.pid, status, delay)

    def _fill_up(self) -> None:
        """Start workers in the place of those that died."""
        if self._stop_signals or self._replacement is not None or time.monotonic() < self._start_at:
            return
        if self._failed or (self._on_ready is not None and not self._all_ready()):
            return
        while len(self._processes) < self._count:
            self._start()

    def _all_ready(self) -> bool:
        return all(process.ready for process in self._processes.values())

    # Signals.

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                notify_reloading()
                self._tell(signal.SIGHUP)
                notify_ready()
            elif number == signal.SIGUSR2 and not self._stop_signals:
                self._to_replace = list(self._processes)
        if self._stop_signals and time.monotonic() >= self._kill_at:
            self._tell(signal.SIGKILL)

    def _stop(self) -> None:
        """Drain every worker; the second time, have them cut."""
        self._stop_signals += 1
        self._kill_at = time.monotonic() + _KILL_AFTER_S
        if self._stop_signals == 1:
            notify_stopping()
            self._close_sockets()
            self._kill_at += self._worker.shutdown_timeout_s
        self._tell(signal.SIGTERM)

    def _close_sockets(self) -> None:
        """Refuse connections from now on: while they are open here too, they would wait for nobody."""
        stopping = [group for side, group in zip(self._worker.sides, self._side_sockets, strict=True) if not side.stays]
        for sock in [*self._sockets, *(sock for group in stopping for sock in group)]:
            sock.close()

    def _tell(self, number: int) -> None:
        for process in (*self._processes.values(), *self._retiring.values()):
            process.signal(number)

    def _roll(self) -> None:
        """One step of a rolling restart: a new worker first, then the old one drains."""
        if self._stop_signals:
            return
        if self._replacement is not None:
            replacement = self._processes.get(self._replacement)
            if replacement is None or not replacement.ready:
                if replacement is not None and time.monotonic() - replacement.started > READY_TIMEOUT_S:
                    replacement.signal(signal.SIGKILL)
                return
            self._replacement = None
            old = self._processes.pop(self._to_replace.pop(0), None)
            if old is not None:
                self._retiring[old.pid] = old
                # One that is still starting hears only SIGTERM.
                old.signal(signal.SIGUSR2 if old.ready else signal.SIGTERM)
        while self._to_replace and self._to_replace[0] not in self._processes:
            # It died by itself, and its successor is new.
            self._to_replace.pop(0)
        if self._to_replace:
            self._replacement = self._start().pid


def _write(fd: int, data: bytes) -> None:
    os.write(fd, data)
    os.close(fd)
