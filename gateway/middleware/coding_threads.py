"""Threads for what would hold the event loop too long: coding and decoding of large bodies."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

# As many threads as asyncio starts by itself keep the event loop waiting for a core: 10 ms for one turn in a thousand
# while 20 bodies are coded on two cores, against 0.1 ms.
_NICENESS = 5


@lru_cache(maxsize=1)
def coding_threads() -> ThreadPoolExecutor:
    """Those of this process: one for each core, with less of a claim to it than the event loop."""
    return ThreadPoolExecutor(_cores(), thread_name_prefix="gateway-coding", initializer=_step_back)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _step_back() -> None:
    """Be less urgent than other threads; elsewhere than on Linux niceness is a matter of the whole process."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(os.getpriority(os.PRIO_PROCESS, own) + _NICENESS, 19))
