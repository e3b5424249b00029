"""Runs one demo service under uvicorn."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette


def run_service(create_app: Callable[[str], Starlette], *, default_name: str, default_port: int) -> None:
    """Serve ``create_app(name)`` on a loopback port until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default=default_name)
    parser.add_argument("--port", type=int, default=default_port)
    options = parser.parse_args()
    uvicorn.run(
        create_app(options.name), host="127.0.0.1", port=options.port, log_level="warning", ws="websockets-sansio"
    )
