"""The proofs run on the event loop that ``gateway run`` uses."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}
