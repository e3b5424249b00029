"""HTTP Basic authentication, RFC 7617."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping

from cachetools import TTLCache
from starlette.types import Scope

from gateway.errors import Unauthorized
from gateway.middleware.auth import Identity, single_value

VERDICT_TTL_S = 10.0
MAX_VERDICTS = 1024
MAX_CREDENTIALS_BYTES = 1024


class BasicAuthenticator:
    """Knows users by name and password; ``users`` has argon2 or bcrypt hashes by name.

    A hash takes tens of milliseconds, so it is verified in a thread and a good verdict is remembered for ten seconds,
    under a keyed hash of the credentials. Raises ValueError for a hash of another kind.
    """

    credential_fields = frozenset([b"authorization"])
    identity_fields: frozenset[bytes] = frozenset()

    def __init__(
        self, users: Mapping[str, str], *, realm: str = "gateway", clock: Callable[[], float] = time.monotonic
    ) -> None:
        from pwdlib import PasswordHash
        from pwdlib.hashers.argon2 import Argon2Hasher
        from pwdlib.hashers.bcrypt import BcryptHasher

        self._hasher = PasswordHash((Argon2Hasher(), BcryptHasher()))
        for name, stored in users.items():
            if not stored.startswith(("$argon2", "$2a$", "$2b$", "$2y$")):
                raise ValueError(f"the password of {name!r} is no argon2 or bcrypt hash")
        # htpasswd -B writes $2y$, which is $2b$ under another name.
        self._users = {name: stored.replace("$2y$", "$2b$", 1) for name, stored in users.items()}
        # Someone who does not exist takes as long as someone who does.
        self._nobody = next(iter(self._users.values()), None) or self._hasher.hash(secrets.token_hex())
        self._secret = secrets.token_bytes(32)
        self._verdicts: TTLCache[bytes, str] = TTLCache(MAX_VERDICTS, VERDICT_TTL_S, timer=clock)
        self._challenge = [(b"www-authenticate", f'Basic realm="{realm}", charset="UTF-8"'.encode("ascii"))]

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized with a challenge when nobody is known by these credentials."""
        value = single_value(scope["headers"], b"authorization")
        if value is None or len(value) > MAX_CREDENTIALS_BYTES:
            raise self._unauthorized("no credentials")
        key = hmac.digest(self._secret, value, hashlib.sha256)
        user = self._verdicts.get(key)
        if user is None:
            user = await self._verify(value)
            self._verdicts[key] = user
        return Identity(user)

    async def _verify(self, value: bytes) -> str:
        name, password = self._credentials(value)
        stored = self._users.get(name)
        good = await asyncio.to_thread(self._matches, password, stored or self._nobody)
        if not good or stored is None:
            raise self._unauthorized("wrong name or password")
        return name

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return bool(self._hasher.verify(password, stored))
        except ValueError:
            # bcrypt takes 72 bytes and no NUL.
            return False

    def _credentials(self, value: bytes) -> tuple[str, str]:
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != b"basic":
            raise self._unauthorized("another scheme than Basic")
        try:
            text = base64.b64decode(token.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise self._unauthorized("malformed credentials") from None
        name, colon, password = text.partition(":")
        if not colon:
            raise self._unauthorized("malformed credentials")
        return name, password

    def _unauthorized(self, reason: str) -> Unauthorized:
        return Unauthorized(reason, headers=list(self._challenge))
