"""Each proof runs under both servers: the protocol class of ``gateway run`` on uvloop, uvicorn's own on asyncio."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.gateway import GATEWAY, UVICORN
from tests.wire.support import OWN, STOCK


@pytest.fixture(params=[OWN, STOCK])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(anyio_backend: Any) -> str:
    """Which server a test runs under."""
    return GATEWAY if anyio_backend == OWN.values[0] else UVICORN
