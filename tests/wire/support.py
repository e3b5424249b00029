"""Which servers a test runs under."""

from __future__ import annotations

import pytest

OWN = pytest.param(("asyncio", {"use_uvloop": True}), id="gateway")
STOCK = pytest.param(("asyncio", {"use_uvloop": False}), id="uvicorn")

own_server = pytest.mark.parametrize("anyio_backend", [OWN])
"""For what only the protocol class of ``gateway run`` can do."""
stock_server = pytest.mark.parametrize("anyio_backend", [STOCK])
