"""A reverse-proxy gateway: one TOML file, a Starlette application, extended in Python.

The map, from the outside in; imports go down only:

    cli         the commands
    server      running under uvicorn: protocol, TLS, workers, drain
    admin       health, readiness and metrics, a small application of its own
    app         Gateway, the Starlette application
    live        the current generation and its replacement
    generation  one configuration as objects, and their lives
    pipeline    configuration -> stacks: every layer of the request path, in order
    config      routes.toml as frozen data
    router      which route a request takes, and why
    middleware  pure ASGI, one per file, each usable alone in any Starlette or FastAPI app
    proxy       the end of the chain: one request to an upstream and back
    upstream    where requests go: pools, endpoints, balancing, health, transports
    stores      state that may be shared between processes
    telemetry   metrics, logging
    http        what HTTP says: pure functions, no I/O
    exchange    what happened to one request
    errors      what can go wrong, whose fault it is, whether it is safe to try again
    patterns    host and path patterns of the route table
    ticker      the coarse clock that deadlines are checked against
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.app import Gateway as Gateway
    from gateway.config.load import load_config as load_config

__version__ = "0.1.0"
__all__ = ["Gateway", "__version__", "load_config"]


def __getattr__(name: str) -> Any:
    # Lazy: importing one middleware must import neither httpx nor uvicorn.
    if name == "Gateway":
        from gateway.app import Gateway

        return Gateway
    if name == "load_config":
        from gateway.config.load import load_config

        return load_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
