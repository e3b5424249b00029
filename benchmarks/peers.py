"""Who is measured: the gateway in its forms, and its peers where they are installed. Each serves on one core."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from benchmarks import nginx
from benchmarks.processes import free_port
from benchmarks.site import Site


@dataclass(frozen=True)
class Peer:
    """How one contender is started; ``program`` is what has to be installed for it."""

    name: str
    command: Callable[[Site], list[str]]
    env: Callable[[Site], Mapping[str, str]] = lambda site: MappingProxyType({})
    program: str = sys.executable
    beside: Callable[[Site], list[str]] | None = None
    """Another server that it uses, on the load's core; what that one uses is not counted."""

    @property
    def is_installed(self) -> bool:
        return shutil.which(self.program) is not None


def gateway_table(site: Site, *, routes: int = 1, cache: bool = False, route_keys: str = "") -> str:
    """A route table with what most users switch on: routing, header rules, request id, balancing; the log off."""
    many = "".join(
        f'[[routes]]\nname = "r{n}"\npath = "/api/v{n % 50}/r{n}/*"\nupstream = "origin"\n' for n in range(routes - 1)
    )
    tls = ""
    if site.certificate is not None:
        tls = f'certificates = [{{ cert = "{site.certificate.chain}", key = "{site.certificate.key}" }}]'
        tls = f"[server.tls]\n{tls}\n"
    store = f'[cache]\nstore = "redis://127.0.0.1:{site.beside}/0"\n' if site.beside else ""
    return f"""
[server]
bind = "127.0.0.1:{site.port}"
access_log = "off"
{tls}{store}
[upstreams.origin]
endpoints = ["http://127.0.0.1:{site.upstream}"]
max_connections = 10000
[[routes]]
name = "all"
path = "/*"
upstream = "origin"
compress = true
cache = {str(cache).lower()}
response_headers = {{ set = {{ X-Served-By = "gateway" }} }}
{route_keys}
{many}"""


def run_gateway(site: Site, table: str) -> list[str]:
    """The command that serves ``table``."""
    path = site.write(f"routes-{site.port}.toml", table)
    return [sys.executable, "-m", "gateway", "run", path, "--no-reload"]


def _gateway(name: str, *, routes: int = 1, cache: bool = False, route_keys: str = "") -> Peer:
    return Peer(
        name,
        lambda site: run_gateway(site, gateway_table(site, routes=routes, cache=cache, route_keys=route_keys)),
    )


def _mounted(name: str, *, cache: bool = False) -> Peer:
    """The gateway as an application of a server that knows nothing of it."""
    return Peer(
        name,
        _uvicorn("gateway.asgi:app", "--no-proxy-headers", "--no-server-header", "--no-date-header"),
        env=lambda site: {"GATEWAY_CONFIG": site.write(f"mounted-{site.port}.toml", gateway_table(site, cache=cache))},
    )


def _redis(site: Site) -> list[str]:
    return ["redis-server", "--port", str(site.beside), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def _uvicorn(app: str, *options: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        flags = ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", *options]
        if site.certificate is not None:
            flags += ["--ssl-certfile", str(site.certificate.chain), "--ssl-keyfile", str(site.certificate.key)]
        return [sys.executable, "-m", "uvicorn", app, "--port", str(site.port), *flags]

    return command


def _haproxy(site: Site) -> list[str]:
    tls = f" ssl crt {site.certificate.bundle}" if site.certificate is not None else ""
    text = f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  option forwardfor
frontend f
  bind 127.0.0.1:{site.port}{tls}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{site.upstream}
"""
    return ["haproxy", "-db", "-f", site.write("haproxy.cfg", text)]


def caddy_file(site: Site, routes: str = "") -> str:
    """One site that forwards; ``routes`` stand before that."""
    tls = f"tls {site.certificate.chain} {site.certificate.key}" if site.certificate is not None else ""
    return f"""
{{
  admin off
  auto_https off
}}
{site.url} {{
  bind 127.0.0.1
  {tls}
  {routes}
  reverse_proxy 127.0.0.1:{site.upstream}
}}
"""


def run_caddy(site: Site, text: str) -> list[str]:
    """The command that serves a Caddyfile."""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", site.write(f"Caddyfile-{site.port}", text)]


def one_core(site: Site) -> Mapping[str, str]:
    """What Caddy needs to be told so that it uses its one core well."""
    home = str(Path(site.folder, "caddy"))
    return {"GOMAXPROCS": "1", "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}


def _varnish(site: Site) -> list[str]:
    vcl = f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{site.upstream}"; }}'
    command = ["varnishd", "-F", "-a", f"127.0.0.1:{site.port}", "-f", site.write("bench.vcl", vcl)]
    return [*command, "-n", str(site.folder / "varnish"), "-s", "malloc,256m", "-T", f"127.0.0.1:{free_port()}"]


# Who may use a route, and how much: all that needs no credentials in the load.
_GUARDS = """
allow = ["127.0.0.0/8"]
max_concurrent = 1000
rate_limit = { rate = "1000000/s", burst = 1000000 }
cors = { origins = ["https://app.example.com"] }
"""

PEERS = {
    peer.name: peer
    for peer in (
        _gateway("gateway"),
        _gateway("gateway, cache", cache=True),
        _gateway("gateway, 10,000 routes", routes=10_000),
        _gateway("gateway, messages", route_keys='middleware = ["benchmarks.echo:MessageView"]'),
        _gateway("gateway, guarded", route_keys=_GUARDS),
        replace(_gateway("gateway, cache in Redis", cache=True), program="redis-server", beside=_redis),
        _mounted("gateway under stock uvicorn"),
        _mounted("gateway, cache under stock uvicorn", cache=True),
        Peer("uvicorn hello-world", _uvicorn("benchmarks.hello:app")),
        Peer(
            "naive httpx proxy",
            _uvicorn("benchmarks.naive:app"),
            env=lambda site: {"BENCH_UPSTREAM": f"http://127.0.0.1:{site.upstream}"},
        ),
        Peer("nginx", nginx.proxy, program="nginx"),
        Peer("haproxy", _haproxy, program="haproxy"),
        Peer("caddy", lambda site: run_caddy(site, caddy_file(site)), env=one_core, program="caddy"),
        Peer(
            "caddy, coding",
            lambda site: run_caddy(site, caddy_file(site, "encode gzip")),
            env=one_core,
            program="caddy",
        ),
        Peer("varnish", _varnish, program="varnishd"),
    )
}
