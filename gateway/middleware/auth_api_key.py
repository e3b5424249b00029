"""API keys in a request field."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from starlette.types import Scope

from gateway.errors import Unauthorized
from gateway.http.fields import Fields
from gateway.middleware.auth import Identity, single_value

_HASHED = "sha256:"
_HASH = re.compile("[0-9a-fA-F]{64}")


class ApiKeys:
    """Knows the owner of a key; ``keys`` has the secret by owner, or ``sha256:`` and its hash in hexadecimal.

    Raises ValueError for a malformed hash, and for a key with two owners.
    """

    identity_fields: frozenset[bytes] = frozenset()

    def __init__(self, keys: Mapping[str, str], *, header: str = "X-API-Key") -> None:
        self._field = header.lower().encode("ascii")
        self.credential_fields = frozenset([self._field])
        # A second hash, under a key that nobody knows: the time of a look-up by it tells nothing about any secret, and
        # ten thousand owners cost no more than one.
        self._blind = secrets.token_bytes(32)
        self._owners: dict[bytes, Identity] = {}
        for owner, secret in keys.items():
            blinded = self._blinded(_digest(secret))
            if blinded in self._owners:
                raise ValueError(f"{owner!r} and {self._owners[blinded].user!r} have the same API key")
            self._owners[blinded] = Identity(owner)
        self._challenge = [(b"www-authenticate", f'ApiKey header="{header}"'.encode("ascii"))]

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized without a key that is known."""
        identity = self.known(scope["headers"])
        if identity is None:
            has_one = single_value(scope["headers"], self._field) is not None
            reason = "unknown API key" if has_one else "no API key, or several"
            raise Unauthorized(reason, headers=list(self._challenge))
        return identity

    def known(self, headers: Fields) -> Identity | None:
        """Whose key is among the fields of a request."""
        value = single_value(headers, self._field)
        return None if value is None else self._owners.get(self._blinded(hashlib.sha256(value).digest()))

    def _blinded(self, digest: bytes) -> bytes:
        return hmac.digest(self._blind, digest, hashlib.sha256)


def _digest(secret: str) -> bytes:
    if not secret.startswith(_HASHED):
        return hashlib.sha256(secret.encode("utf-8")).digest()
    hexadecimal = secret.removeprefix(_HASHED)
    if not _HASH.fullmatch(hexadecimal):
        raise ValueError("a hashed API key is sha256: and 64 hexadecimal digits")
    return bytes.fromhex(hexadecimal)
