"""Who is measured: the gateway in its forms, and its peers where they are installed. Each serves on one core."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import free_port

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Peer:
    """How one contender is started in front of an upstream."""

    name: str
    command: Callable[[int, int, Path], list[str]]
    """(own port, upstream port, folder for files) -> command."""
    env: Callable[[int], dict[str, str]] = lambda upstream: {}
    installed: Callable[[], bool] = lambda: True
    store: bool = False
    """Whether it needs a Redis, whose port it finds in BENCH_REDIS; its CPU time does not count."""


def _has(program: str) -> Callable[[], bool]:
    return lambda: shutil.which(program) is not None


def _write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def gateway_table(
    port: int, upstream: int, *, routes: int = 1, cache: bool = False, shared: bool = False, compress: bool = True
) -> str:
    """A route table with what most users switch on: routing, header rules, request id, balancing; the log off."""
    many = "".join(
        f'[[routes]]\nname = "r{n}"\npath = "/api/v{n % 50}/r{n}/*"\nupstream = "origin"\n' for n in range(routes - 1)
    )
    return f"""
[server]
bind = "127.0.0.1:{port}"
access_log = "off"
[cache]
store = "{"redis://127.0.0.1:${BENCH_REDIS}/0" if shared else "memory"}"
[upstreams.origin]
endpoints = ["http://127.0.0.1:{upstream}"]
[[routes]]
name = "all"
path = "/*"
upstream = "origin"
compress = {str(compress).lower()}
cache = {str(cache).lower()}
response_headers = {{ set = {{ X-Served-By = "gateway" }} }}
{many}"""


def _gateway(name: str = "gateway", *, installed: Callable[[], bool] = lambda: True, **table: int | bool) -> Peer:
    def command(port: int, upstream: int, folder: Path) -> list[str]:
        path = _write(folder, f"{name}.toml", gateway_table(port, upstream, **table))  # type: ignore[arg-type]
        return [sys.executable, "-m", "gateway", "run", path, "--no-reload"]

    return Peer(name, command, installed=installed, store=bool(table.get("shared")))


def redis(port: int, folder: Path) -> list[str]:
    """A store for several gateways, in memory alone."""
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]


def _mounted(port: int, upstream: int, folder: Path) -> list[str]:
    _write(folder, "mounted.toml", gateway_table(port, upstream))
    flags = [
        "--no-access-log",
        "--no-proxy-headers",
        "--no-server-header",
        "--no-date-header",
        "--log-level",
        "warning",
    ]
    return [sys.executable, "-m", "uvicorn", "gateway.asgi:app", "--port", str(port), "--loop", "uvloop", *flags]


def _uvicorn(app: str) -> Callable[[int, int, Path], list[str]]:
    flags = ["--no-access-log", "--log-level", "warning", "--loop", "uvloop"]
    return lambda port, upstream, folder: [sys.executable, "-m", "uvicorn", app, "--port", str(port), *flags]


def nginx_origin(port: int, folder: Path, body: bytes) -> list[str]:
    """The upstream: a small answer, two files, a sink for uploads, and a cacheable answer."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    (files / "64k").write_bytes(b"0123456789abcdef" * 4096)
    (files / "10m").write_bytes(b"0123456789abcdef" * 4096 * 160)
    (files / "page.json").write_bytes(b'{"name": "A product", "text": "' + b"some words of it " * 1200 + b'"}')
    text = body.decode().replace("'", "")
    locations = f"""
      location / {{ default_type application/json; return 200 '{text}'; }}
      location /files/ {{ alias {files}/; default_type application/octet-stream; types {{ application/json json; }} }}
      location /upload {{ client_max_body_size 100m; client_body_buffer_size 64k; proxy_pass http://127.0.0.1:{port}/sunk;
                          proxy_request_buffering off; }}
      location /sunk {{ client_max_body_size 100m; return 200 'ok'; }}
      location /cached {{ default_type application/json; add_header Cache-Control "public, max-age=3600";
                          return 200 '{text}'; }}
    """
    return ["nginx", "-p", str(folder), "-c", _write(folder, "origin.conf", nginx_conf(port, locations))]


def nginx_conf(port: int, locations: str, extra: str = "") -> str:
    """One worker in the foreground, no logs, keep-alive without end."""
    return f"""
daemon off; worker_processes 1; pid nginx-{port}.pid; error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on;
  client_body_temp_path tmp-body-{port}; proxy_temp_path tmp-proxy-{port};
  fastcgi_temp_path tmp-f-{port}; uwsgi_temp_path tmp-u-{port}; scgi_temp_path tmp-s-{port};
  {extra}
  server {{ listen 127.0.0.1:{port} reuseport; {locations} }}
}}
"""


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    extra = f"upstream origin {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}"
    cache = f"proxy_cache_path {folder}/cache keys_zone=c:10m;"
    forward = (
        'proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;'
    )
    locations = f"""
      location / {{ {forward} client_max_body_size 100m; gzip on; gzip_proxied any; gzip_types application/json; }}
      location /cached {{ {forward} proxy_cache c; }}
    """
    return ["nginx", "-p", str(folder), "-c", _write(folder, "proxy.conf", nginx_conf(port, locations, extra + cache))]


def _haproxy(port: int, upstream: int, folder: Path) -> list[str]:
    text = f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{upstream}
"""
    return ["haproxy", "-db", "-f", _write(folder, "haproxy.cfg", text)]


def _caddy(port: int, upstream: int, folder: Path) -> list[str]:
    text = f"""
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream}
}}
"""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", _write(folder, "Caddyfile", text)]


def _varnish(port: int, upstream: int, folder: Path) -> list[str]:
    vcl = f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{upstream}"; }}'
    command = ["varnishd", "-F", "-a", f"127.0.0.1:{port}", "-f", _write(folder, "bench.vcl", vcl)]
    return [*command, "-n", str(folder / "varnish"), "-s", "malloc,256m", "-T", f"127.0.0.1:{free_port()}"]


PEERS = {
    peer.name: peer
    for peer in (
        _gateway(),
        _gateway("gateway, cache", cache=True),
        _gateway("gateway, cache in Redis", cache=True, shared=True, installed=_has("redis-server")),
        _gateway("gateway, 10,000 routes", routes=10_000),
        Peer("gateway under stock uvicorn", _mounted),
        Peer("uvicorn hello-world", _uvicorn("benchmarks.hello:app")),
        Peer(
            "naive httpx proxy",
            _uvicorn("benchmarks.naive:app"),
            env=lambda upstream: {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"},
        ),
        Peer("nginx", _nginx, installed=_has("nginx")),
        Peer("haproxy", _haproxy, installed=_has("haproxy")),
        Peer("caddy", _caddy, env=lambda upstream: {"GOMAXPROCS": "1"}, installed=_has("caddy")),
        Peer("varnish", _varnish, installed=_has("varnishd")),
    )
}
