"""Configurations of nginx, which is the upstream of every HTTP scenario and a contender as well."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bodies import json_body
from benchmarks.site import Site

KIB, MIB = 1024, 1024 * 1024


def origin(port: int, folder: Path, body: bytes) -> list[str]:
    """The upstream: a small answer, one with fields of its own each time, files, small uploads, a cacheable answer."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    line = b"0123456789abcdef"
    (files / "64k").write_bytes(line * (64 * KIB // len(line)))
    (files / "10m").write_bytes(line * (10 * MIB // len(line)))
    (files / "page.json").write_bytes(json_body(items=46))
    text = body.decode().replace("'", "")
    locations = f"""
      location / {{ default_type application/json; return 200 '{text}'; }}
      location /varied/ {{ default_type application/json; add_header X-Trace $request_id;
                           add_header ETag '"$request_id"'; return 200 '{text}'; }}
      location /files/ {{ alias {files}/; default_type application/octet-stream;
                          types {{ application/json json; text/html html; }} }}
      location /upload {{ client_body_buffer_size 128k; proxy_pass http://127.0.0.1:{port}/sunk; }}
      location /sunk {{ return 200 'ok'; }}
      location /cached {{ default_type application/json; add_header Cache-Control "public, max-age=3600";
                          return 200 '{text}'; }}
    """
    path = folder / "origin.conf"
    path.write_text(_configuration(port, f"listen 127.0.0.1:{port} reuseport;", locations))
    return ["nginx", "-p", str(folder), "-c", str(path)]


def proxy(site: Site) -> list[str]:
    """A contender: caches /cached, compresses JSON, passes WebSockets on."""
    forward = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Host $host;"
    plain = 'proxy_set_header Connection "";'
    locations = f"""
      location / {{ {forward} {plain} client_max_body_size 100m;
                    gzip on; gzip_proxied any; gzip_types application/json; }}
      location /cached {{ {forward} {plain} proxy_cache c; }}
      location /echo {{ {forward} proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }}
    """
    return run(site, locations, f"proxy_cache_path {site.folder}/cache keys_zone=c:10m;")


def run(site: Site, locations: str, http: str = "") -> list[str]:
    """The command that serves ``locations``; "origin" is the upstream, to which connections are kept."""
    listen = f"listen 127.0.0.1:{site.port} reuseport;"
    if site.certificate is not None:
        files = f"ssl_certificate {site.certificate.chain}; ssl_certificate_key {site.certificate.key};"
        # As the others do, and not only 1.2, which is cheaper.
        files += " ssl_protocols TLSv1.2 TLSv1.3;"
        listen = f"listen 127.0.0.1:{site.port} reuseport ssl; {files}"
    http += f"\n  upstream origin {{ server 127.0.0.1:{site.upstream}; keepalive 512; keepalive_requests 1000000000; }}"
    path = site.write(f"nginx-{site.port}.conf", _configuration(site.port, listen, locations, http))
    return ["nginx", "-p", str(site.folder), "-c", path]


def _configuration(port: int, listen: str, locations: str, http: str = "") -> str:
    """One worker in the foreground, no logs, keep-alive without end."""
    return f"""
daemon off; worker_processes 1; pid nginx-{port}.pid; error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on;
  client_body_temp_path tmp-body-{port}; proxy_temp_path tmp-proxy-{port};
  fastcgi_temp_path tmp-f-{port}; uwsgi_temp_path tmp-u-{port}; scgi_temp_path tmp-s-{port};
  {http}
  server {{ {listen} {locations} }}
}}
"""
