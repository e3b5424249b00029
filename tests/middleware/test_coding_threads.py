from __future__ import annotations

import os
import sys
import threading

import pytest

from gateway.middleware.coding_threads import coding_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of a thread")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_threads_are_less_urgent_than_the_event_loop() -> None:
    own = niceness()
    assert coding_threads().submit(niceness).result() == min(own + 5, 19)
    assert niceness() == own


def test_there_are_no_more_threads_than_cores() -> None:
    assert coding_threads() is coding_threads()
    assert coding_threads()._max_workers == len(os.sched_getaffinity(0))
