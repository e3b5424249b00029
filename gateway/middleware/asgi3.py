"""Says of an application whose ``__call__`` is a plain function that it speaks ASGI 3."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def asgi3(call: F) -> F:
    """Mark a function that returns an awaitable as one that can be awaited.

    Servers take an application for one of ASGI 2 unless its ``__call__`` is a coroutine function.
    """
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(call)
    else:
        # What asyncio.iscoroutinefunction looks for; it has no public name.
        call.__dict__["_is_coroutine"] = vars(asyncio.coroutines)["_is_coroutine"]
    return call
