"""``uvicorn gateway.asgi:app``: the gateway on the file that ``GATEWAY_CONFIG`` names, ``routes.toml`` by default."""

from __future__ import annotations

import os

from gateway.app import Gateway

app = Gateway(os.environ.get("GATEWAY_CONFIG", "routes.toml"))
