"""Addresses the gateway listens on, endpoint URLs taken apart, and the URLs of stores and services."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from gateway.config.table import Parsed, kind_of
from gateway.config.values import parse_module_attribute, parse_text

Scheme = Literal["http", "https", "unix", "asgi"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
# pchar and "/", RFC 3986 section 3.3, with complete percent escapes.
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class Bind:
    """Where to listen: ``host`` and ``port``, or ``path`` of a UNIX socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect; a name other than ``localhost`` is not believed to."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """An endpoint URL taken apart.

    ``base_path`` is empty or begins with a slash and ends without one. For ``unix:`` and ``asgi:`` the host is
    ``localhost`` and the port 80: what a Host field would name.
    """

    text: str
    scheme: Scheme
    host: str
    port: int
    base_path: str = ""
    uds: str = ""
    app: str = ""


def parse_bind(value: Any) -> Bind:
    """``"127.0.0.1:8080"``, ``"[::1]:8080"`` or ``"unix:/run/gateway.sock"``."""
    if isinstance(value, Bind):
        return value
    if not isinstance(value, str):
        raise ValueError(f'must be an address such as "127.0.0.1:8080", not {kind_of(value)}')
    text = parse_text(value)
    if text.startswith("unix:"):
        return Bind("", 0, _socket_path(text))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('must be an address with a port, such as "127.0.0.1:8080", or "unix:/path.sock"')
    if host in ("", "*"):
        raise ValueError(f'names no address; write "0.0.0.0:{port}" or "[::]:{port}" for all of them')
    return Bind(_host(host), int(port))


@functools.lru_cache(maxsize=4096)
def parse_endpoint_url(text: str) -> EndpointUrl:
    """Raises ValueError for an unknown scheme, a query, a fragment, credentials, a bad port or base path."""
    text = parse_text(text)
    if text.startswith("unix:"):
        return EndpointUrl(text, "unix", "localhost", 80, uds=_socket_path(text))
    if text.startswith("asgi:"):
        return EndpointUrl(text, "asgi", "localhost", 80, app=parse_module_attribute(text[5:]))
    scheme, host, port, path = _split(text, ("http", "https"))
    base_path = path.rstrip("/")
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    canonical = f"{scheme}://{shown_host}{shown_port}{base_path}"
    return EndpointUrl(canonical, "https" if scheme == "https" else "http", host, port, base_path)


def looks_like_url(text: str) -> bool:
    """Whether an upstream is an endpoint written in place: names have no colon."""
    return ":" in text


def _split(text: str, schemes: tuple[str, ...]) -> tuple[str, str, int, str]:
    """Scheme, host, port and path; messages never repeat the URL, for it may hold a password."""
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in schemes:
        kinds = ", ".join(f"{known}://" for known in schemes)
        more = ", unix:/path.sock or asgi:package.module:app" if "http" in schemes and "asgi" not in text[:4] else ""
        raise ValueError(f"must be a URL with one of the schemes {kinds}{more}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL: host or port cannot be read") from None
    if "@" in parts.netloc:
        raise ValueError("must not contain credentials")
    if "?" in text:
        raise ValueError("must not have a query")
    if "#" in text:
        raise ValueError("must not have a fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has no usable port")
    if not _PATH.fullmatch(parts.path) or "//" in parts.path:
        raise ValueError("has a path with characters that must be percent-encoded, or with empty segments")
    if any(segment in (".", "..") for segment in parts.path.replace("%2e", ".").replace("%2E", ".").split("/")):
        raise ValueError("must not have . or .. in its path")
    return scheme, _host(parts.netloc.removesuffix(f":{port}")), port or _DEFAULT_PORTS[scheme], parts.path


def _host(text: str) -> str:
    """A host in lower case, an IPv6 address without its brackets."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("has a malformed IPv6 address") from None
    if not _HOST.fullmatch(text):
        raise ValueError("has no valid host; names are ASCII (international ones as xn--...), IPv6 stands in brackets")
    if re.fullmatch("[0-9.]+", text):
        # Numbers that are no dotted quad are read in several ways: 127.1, 0177.0.0.1, 2130706433.
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise ValueError("has a malformed IPv4 address") from None
    return text.lower()


def _socket_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError('must name a socket by its absolute path: "unix:/path.sock"')
    return path


def parse_store(value: Any) -> str:
    """``memory``, or the URL of a Redis: ``redis://`` or ``rediss://``, with credentials and a database number."""
    text = parse_text(value)
    if text == "memory":
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch("/?[0-9]*", parts.path) or parts.query or parts.fragment:
        raise ValueError('must be "memory" or "redis://host:6379/0"')
    return text


def parse_service_url(value: Any) -> str:
    """An ``http(s)`` URL that the gateway itself asks; a query is allowed, credentials are not."""
    text = parse_text(value)
    _split(text.partition("?")[0], ("http", "https"))
    if "#" in text or not text.isascii() or " " in text:
        raise ValueError("must not have a fragment, spaces or characters that must be percent-encoded")
    return text


def parse_origin(value: Any) -> str:
    """``*``, or an origin as browsers send it: scheme, host and port, no path."""
    text = parse_text(value)
    if text == "*":
        return text
    try:
        scheme, host, port, path = _split(text, ("http", "https"))
    except ValueError as error:
        raise ValueError(f'must be "*" or an origin such as "https://app.example.com": {error}') from None
    if path:
        raise ValueError("an origin has no path and no slash at its end")
    shown_host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown_host}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")


def _endpoint_text(value: Any) -> str:
    return parse_endpoint_url(parse_text(value)).text


BindAddress = Annotated[
    Bind, Parsed(parse_bind, {"type": "string", "examples": ["127.0.0.1:8080", "unix:/run/gateway.sock"]}, show=str)
]
EndpointText = Annotated[str, Parsed(_endpoint_text, {"type": "string", "examples": ["http://127.0.0.1:9001"]})]
StoreUrl = Annotated[str, Parsed(parse_store, {"type": "string", "examples": ["memory", "redis://host:6379/0"]})]
ServiceUrl = Annotated[str, Parsed(parse_service_url, {"type": "string", "examples": ["https://id.example.com/jwks"]})]
Origin = Annotated[str, Parsed(parse_origin, {"type": "string", "examples": ["*", "https://app.example.com"]})]
