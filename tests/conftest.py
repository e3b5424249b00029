"""Fixtures that every test may use."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def steady_hashes() -> Iterator[None]:
    """Hashes of texts differ from process to process, and with them what of two things that are met pushes out one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.recent.hash", lambda thing: 31 * zlib.crc32(repr(thing).encode()), raising=False)
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
