"""Real files changed in the ways of editors, configuration management and Kubernetes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.server import watch
from gateway.server.watch import watch_file, watch_files

pytestmark = pytest.mark.anyio

LONG_S = 20.0


class Watched:
    """Counts the changes that were seen."""

    def __init__(self) -> None:
        self.count = 0
        self._seen = asyncio.Event()

    async def changed(self) -> None:
        self.count += 1
        self._seen.set()

    async def seen(self) -> None:
        """Until one more change was seen."""
        await asyncio.wait_for(self._seen.wait(), LONG_S)
        self._seen.clear()


@contextlib.asynccontextmanager
async def watching(*paths: Path, look_again_ms: int = 200) -> AsyncIterator[Watched]:
    # Looking again soon makes no difference but for changes before the watch has begun.
    watched, stop = Watched(), asyncio.Event()
    task = asyncio.ensure_future(watch_files(paths, watched.changed, stop=stop, look_again_ms=look_again_ms))
    # It knows the contents as soon as it has run for the first time.
    await asyncio.sleep(0)
    try:
        yield watched
    finally:
        stop.set()
        await asyncio.wait_for(task, LONG_S)


def write_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    new = path.with_name(".new~")
    new.write_text(text)
    new.replace(path)


def remove_and_create(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("change", [write_in_place, rename_over, remove_and_create])
async def test_a_change_is_seen_however_it_is_made(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("one")
    async with watching(path) as watched:
        for text in ("two", "three"):
            change(path, text)
            await watched.seen()


async def test_kubernetes_swaps_the_link_to_a_folder(tmp_path: Path) -> None:
    def publish(version: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "routes.toml").write_text(version)
        (tmp_path / "..tmp").symlink_to(version)
        os.replace(tmp_path / "..tmp", tmp_path / "..data")

    publish("..1")
    path = tmp_path / "routes.toml"
    path.symlink_to("..data/routes.toml")
    async with watching(path) as watched:
        for version in ("..2", "..3"):
            publish(version)
            await watched.seen()
        # What is in the new folder is watched as well.
        (tmp_path / "..3" / "routes.toml").write_text("in place")
        await watched.seen()


async def test_a_link_among_the_folders_above_is_swapped(tmp_path: Path) -> None:
    for version in ("a", "b"):
        (tmp_path / version / "etc").mkdir(parents=True)
        (tmp_path / version / "etc" / "routes.toml").write_text(version)
    (tmp_path / "current").symlink_to(tmp_path / "a")
    async with watching(tmp_path / "current" / "etc" / "routes.toml") as watched:
        (tmp_path / "new").symlink_to(tmp_path / "b")
        os.replace(tmp_path / "new", tmp_path / "current")
        await watched.seen()


async def test_the_same_content_again_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("one")
    async with watching(path) as watched:
        rename_over(path, "one")
        (tmp_path / "another").write_text("neighbours do not count")
        rename_over(path, "two")
        await watched.seen()
    assert watched.count == 1


async def test_a_file_that_is_gone_for_a_while_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("one")
    async with watching(path) as watched:
        path.rename(tmp_path / "away")
        (tmp_path / "away").rename(path)
        rename_over(path, "two")
        await watched.seen()
    assert watched.count == 1


async def test_a_folder_that_is_replaced_is_watched_again(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "routes.toml"
    path.write_text("one")
    async with watching(path) as watched:
        folder.rename(tmp_path / "old")
        folder.mkdir()
        path.write_text("two")
        await watched.seen()
        path.write_text("three")
        await watched.seen()


async def test_a_change_before_the_watch_begins_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("two")
    watched, stop = Watched(), asyncio.Event()
    task = asyncio.ensure_future(watch_file(path, watched.changed, stop=stop, known=b"one"))
    await watched.seen()
    stop.set()
    await asyncio.wait_for(task, LONG_S)
    assert watched.count == 1


async def test_several_files_are_one_watch(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("1")
    async with watching(first, second) as watched:
        second.write_text("2")
        await watched.seen()
        first.write_text("2")
        await watched.seen()


async def test_without_notices_the_file_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_watches(*args: object) -> None:
        raise OSError("no more watches")

    monkeypatch.setattr(watch, "_watch_folders", no_watches)
    path = tmp_path / "routes.toml"
    path.write_text("one")
    async with watching(path, look_again_ms=10) as watched:
        path.write_text("two")
        await watched.seen()


async def test_what_is_no_file_is_never_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "routes.toml"
    path.write_text("one")
    async with watching(pipe, path) as watched:
        path.write_text("two")
        await watched.seen()


async def test_a_cancelled_watch_ends(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text("one")
    task = asyncio.ensure_future(watch_file(path, Watched().changed, stop=asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=LONG_S)
    assert task.cancelled()


async def test_links_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.symlink_to("other")
    (tmp_path / "other").symlink_to("routes.toml")
    assert watch._folders([path]) == [tmp_path]
