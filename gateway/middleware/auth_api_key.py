"""API keys in a request field."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.types import Scope

from gateway.errors import Unauthorized
from gateway.middleware.auth import Identity, single_value

_HASHED = "sha256:"


class ApiKeys:
    """Knows the owner of a key; ``keys`` has the secret by owner, or ``sha256:`` and its hash in hexadecimal.

    Only hashes are kept, and every one is compared in constant time, so that time tells nothing about any.
    """

    identity_fields: frozenset[bytes] = frozenset()

    def __init__(self, keys: Mapping[str, str], *, header: str = "X-API-Key") -> None:
        self._field = header.lower().encode("ascii")
        self.credential_fields = frozenset([self._field])
        self._owners = [(_digest(secret), owner) for owner, secret in keys.items()]

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized without a key that is known."""
        value = single_value(scope["headers"], self._field)
        if value is None:
            raise Unauthorized("no API key, or several")
        given = hashlib.sha256(value).digest()
        found = ""
        for digest, owner in self._owners:
            if hmac.compare_digest(digest, given):
                found = owner
        if not found:
            raise Unauthorized("unknown API key")
        return Identity(found)


def _digest(secret: str) -> bytes:
    if not secret.startswith(_HASHED):
        return hashlib.sha256(secret.encode("utf-8")).digest()
    digest = bytes.fromhex(secret.removeprefix(_HASHED))
    if len(digest) != 32:
        raise ValueError("a hashed API key is sha256: and 64 hexadecimal digits")
    return digest
