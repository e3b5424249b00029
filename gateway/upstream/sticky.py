"""Sticky sessions: a cookie that names an endpoint without revealing its address."""

from __future__ import annotations

import hashlib
import math

from gateway.exchange import Scope
from gateway.http.cookies import cookie_pairs
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.settings import StickySettings

_ID_BYTES = 12


class StickyCookie:
    """Reads and writes the cookie of one upstream; ``key`` is secret, at most 64 bytes count."""

    def __init__(self, settings: StickySettings, upstream: str, key: bytes) -> None:
        self.key = key
        self._name = settings.cookie.encode("ascii")
        self._salt = upstream.encode()
        max_age = b"; Max-Age=%d" % math.ceil(settings.max_age_s) if settings.max_age_s else b""
        self._attributes = b"; Path=/" + max_age + b"; HttpOnly; SameSite=Lax"

    def id_of(self, endpoint: Endpoint) -> bytes:
        """What the cookie says of ``endpoint``: a keyed hash, the same in every process that has the key."""
        text = self._salt + b"\n" + endpoint.identity.encode()
        return hashlib.blake2b(text, key=self.key[:64], digest_size=_ID_BYTES).hexdigest().encode("ascii")

    def ids_in(self, scope: Scope) -> list[bytes]:
        """What the client's cookies of that name say; there may be several, set for different paths."""
        return [value for name, value in cookie_pairs(scope["headers"]) if name == self._name]

    def header(self, endpoint: Endpoint, *, secure: bool) -> bytes:
        """The Set-Cookie value that brings the client back to ``endpoint``."""
        value = self._name + b"=" + endpoint.cookie_id + self._attributes
        return value + b"; Secure" if secure else value
