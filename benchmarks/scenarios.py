"""What is asked, and of whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.load import Load
from benchmarks.nginx import MIB

GATEWAYS = ("gateway", "gateway under stock uvicorn")
CACHES = ("gateway, cache", "gateway, cache under stock uvicorn", "gateway, cache in Redis")
PROXIES = ("caddy", "haproxy", "nginx")


@dataclass(frozen=True)
class Scenario:
    """One row of questions; ``reference`` is whom the ratios are against."""

    about: str
    load: Load
    peers: tuple[str, ...]
    reference: str = "caddy"
    tls: bool = False

    @property
    def upstream(self) -> str:
        """Who answers: nginx, or what it cannot do."""
        if self.load.frames:
            return "echo"
        return "sink" if self.load.upload_bytes else "nginx"


_SMALL = Load("/")
_ECHO = Load("/echo", connections=32, frames=1)

SCENARIOS = {
    "small": Scenario(
        "GET of 180 bytes of JSON",
        _SMALL,
        (*GATEWAYS, "gateway, guarded", "uvicorn hello-world", "naive httpx proxy", *PROXIES),
    ),
    "varied": Scenario(
        "the same, with other targets and fields each time, both ways",
        Load("/varied/", varied=True),
        (*GATEWAYS, *PROXIES),
    ),
    "64k": Scenario("GET of 64 KiB", Load("/files/64k", connections=16), ("gateway", *PROXIES)),
    "10m": Scenario("GET of 10 MiB", Load("/files/10m", connections=4), ("gateway", *PROXIES)),
    "upload": Scenario("POST of 10 MiB", Load("/upload", connections=4, upload_bytes=10 * MIB), ("gateway", *PROXIES)),
    "hit": Scenario(
        "GET answered from the cache",
        Load("/cached"),
        (*CACHES, "uvicorn hello-world", "nginx", "varnish"),
        "uvicorn hello-world",
    ),
    "routes": Scenario(
        "GET through a table of 10,000 routes", _SMALL, ("gateway", "gateway, 10,000 routes"), "gateway"
    ),
    "gzip": Scenario(
        "GET of 20 KB of JSON, compressed",
        Load("/files/page.json", 16, ("Accept-Encoding: gzip",)),
        ("gateway", "gateway under stock uvicorn", "caddy, coding", "nginx"),
        "caddy, coding",
    ),
    "echo": Scenario(
        "WebSocket messages of 100 bytes and their echo", _ECHO, ("gateway", "gateway, messages", *PROXIES)
    ),
    "echo8": Scenario(
        "the same, 8 outstanding on each connection",
        replace(_ECHO, frames=8),
        ("gateway", "gateway, messages", *PROXIES),
    ),
    "cold": Scenario(
        "GET, a connection for each", replace(_SMALL, cold=True), ("gateway", "uvicorn hello-world", *PROXIES)
    ),
    "tls": Scenario("GET through TLS", _SMALL, ("gateway", "uvicorn hello-world", *PROXIES), tls=True),
    "tls-cold": Scenario(
        "GET through TLS, a handshake for each",
        replace(_SMALL, cold=True),
        ("gateway", "uvicorn hello-world", *PROXIES),
        tls=True,
    ),
}
