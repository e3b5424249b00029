"""Notices that a file has other content, however it got there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

DEBOUNCE_MS = 100


async def watch_file(path: Path, changed: Callable[[], Awaitable[None]], *, stop: asyncio.Event) -> None:
    """Call ``changed`` whenever the content of ``path`` differs from what it was, until ``stop`` is set.

    Its folder is watched, and those of the links on the way to it: editors and Kubernetes do not write into a file,
    they put another in its place.
    """
    from watchfiles import awatch

    content = _content(path)
    async for _ in awatch(*_folders(path), stop_event=stop, debounce=DEBOUNCE_MS, recursive=False, step=50):
        new = _content(path)
        # A file that is gone for the moment is being replaced.
        if new is not None and new != content:
            content = new
            await changed()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _folders(path: Path) -> list[Path]:
    folders = []
    step = path.absolute()
    for _ in range(40):
        if step.parent not in folders:
            folders.append(step.parent)
        if not step.is_symlink():
            break
        step = step.parent / step.readlink()
    resolved = path.resolve().parent
    return folders if resolved in folders else [*folders, resolved]
