"""Notices that files have other content, however it got there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

DEBOUNCE_MS = 100
STEP_MS = 100
"""How often the watching thread looks for notices; each look takes the interpreter for a moment."""
LOOK_AGAIN_MS = 5_000
"""Network file systems and some containers tell nobody of changes: files are read this often in any case."""

Changed = Callable[[], Awaitable[None]]

logger = logging.getLogger("gateway")


async def watch_file(
    path: Path,
    changed: Changed,
    *,
    stop: asyncio.Event,
    known: bytes | None = None,
    look_again_ms: int = LOOK_AGAIN_MS,
) -> None:
    """Call ``changed`` whenever the content of ``path`` differs from what it was, until ``stop`` is set.

    Its folder is watched, and those of the links on the way to it: editors and Kubernetes do not write into a file,
    they put another in its place. When the system gives no notice, the file is read every ``look_again_ms``.
    ``known`` is what it was, by default what it is now.
    """
    before = {} if known is None else {path: known}
    await watch_files([path], changed, stop=stop, known=before, look_again_ms=look_again_ms)


async def watch_files(
    paths: Sequence[Path],
    changed: Changed,
    *,
    stop: asyncio.Event,
    known: Mapping[Path, bytes] | None = None,
    look_again_ms: int = LOOK_AGAIN_MS,
) -> None:
    """As ``watch_file`` for several files in one thread; ``changed`` is called once for what changes together."""
    contents = _Contents(paths, known or {})
    while not stop.is_set():
        folders = _folders(paths)
        try:
            await _watch_folders(folders, contents, changed, stop, look_again_ms)
        except (OSError, RuntimeError) as error:
            # A folder is gone for the moment, or the system has no more watches to give.
            logger.debug("%s cannot be watched: %s", ", ".join(map(str, folders)), error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), look_again_ms / 1000)
            if contents.have_changed():
                await changed()


async def _watch_folders(
    folders: Sequence[Path], contents: _Contents, changed: Changed, stop: asyncio.Event, look_again_ms: int
) -> None:
    """Until ``stop`` is set or the way to a file leads through other folders."""
    import anyio.to_thread
    from watchfiles._rust_notify import RustNotify  # where its documentation says it is

    identities = list(map(_identity, folders))
    ended = _Either(stop)
    # Poll is for what gives no notices, and not asked for here; neither are folders below.
    with RustNotify([str(folder) for folder in folders], False, False, 300, False, False) as watcher:
        try:
            while not stop.is_set():
                # Also what came before the watch began.
                if contents.have_changed():
                    await changed()
                now = _folders(contents.paths)
                if now != folders or list(map(_identity, now)) != identities:
                    return
                await anyio.to_thread.run_sync(
                    watcher.watch, DEBOUNCE_MS, STEP_MS, look_again_ms, ended, abandon_on_cancel=True
                )
        finally:
            ended.set()


class _Either:
    """Set when it is set itself, or the event that it stands beside: ends the thread that watches."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set or self._event.is_set()


class _Contents:
    """What files held when they were last read."""

    def __init__(self, paths: Iterable[Path], known: Mapping[Path, bytes]) -> None:
        self.paths = tuple(paths)
        self._known = {path: known[path] if path in known else content_of(path) for path in self.paths}

    def have_changed(self) -> bool:
        """Read them again. One that is gone for the moment is being replaced."""
        found = {path: content for path in self.paths if (content := content_of(path)) is not None}
        changed = any(self._known[path] != content for path, content in found.items())
        self._known.update(found)
        return changed


def content_of(path: Path) -> bytes | None:
    """What is in a file; None where there is none."""
    try:
        # A pipe has nothing more to give, and waiting for it would hold up everything.
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _folders(paths: Iterable[Path]) -> list[Path]:
    """Where an entry could change so that one of ``paths`` is another file."""
    return list(dict.fromkeys(folder for path in paths for folder in _folders_of(path)))


def _folders_of(path: Path) -> list[Path]:
    """The folders of ``path`` and of the links on the way to it, which are followed step by step."""
    folders = []
    parts = list(path.absolute().parts)
    reached = Path(parts.pop(0))
    # As many as Linux follows.
    links = 40
    while parts:
        step = reached / parts.pop(0)
        if links and step.is_symlink():
            links -= 1
            folders.append(reached)
            link = step.readlink()
            if link.is_absolute():
                reached = Path(link.anchor)
            parts[:0] = link.relative_to(link.anchor).parts
        elif step.name == "..":
            reached = reached.parent
        else:
            if not parts:
                folders.append(reached)
            reached = step
    return [folder for folder in folders if folder.is_dir()]
