"""What is measured: a load, and the contenders it makes sense for."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.load import Load

GATEWAYS = ("gateway", "gateway under stock uvicorn")
PROXIES = ("caddy", "haproxy", "nginx")


@dataclass(frozen=True)
class Scenario:
    """One row of questions; ``reference`` is whom the ratios are against."""

    load: Load
    peers: tuple[str, ...]
    reference: str = "caddy"


SCENARIOS = {
    "small": Scenario(Load("/"), (*GATEWAYS, "uvicorn hello-world", "naive httpx proxy", *PROXIES)),
    "64k": Scenario(Load("/files/64k", connections=16), ("gateway", *PROXIES)),
    "10m": Scenario(Load("/files/10m", connections=4), ("gateway", *PROXIES)),
    "upload": Scenario(Load("/upload", connections=4, upload_bytes=10 * 1024 * 1024), ("gateway", *PROXIES)),
    "hit": Scenario(
        Load("/cached"),
        ("gateway, cache", "gateway, cache in Redis", "uvicorn hello-world", "nginx", "varnish"),
        "uvicorn hello-world",
    ),
    "routes": Scenario(Load("/"), ("gateway", "gateway, 10,000 routes"), "gateway"),
    "gzip": Scenario(Load("/files/page.json", 16, ("Accept-Encoding: gzip",)), ("gateway", "nginx"), "nginx"),
    "cold": Scenario(Load("/", cold=True), ("gateway", "uvicorn hello-world", *PROXIES)),
}
