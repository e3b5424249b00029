"""HTTP Basic authentication, RFC 7617."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping

from cachetools import TTLCache
from starlette.types import Scope

from gateway.errors import Overloaded, Unauthorized
from gateway.http.fields import Fields
from gateway.middleware.auth import Identity, single_value

VERDICT_TTL_S = 10.0
MAX_VERDICTS = 1024
MAX_CREDENTIALS_BYTES = 1024
MAX_VERIFYING = 128
"""Passwords that may wait to be verified; beyond, 503: each takes a core for tens of milliseconds."""


class BasicAuthenticator:
    """Knows users by name and password; ``users`` has argon2 or bcrypt hashes by name.

    A hash takes tens of milliseconds, so it is verified in a thread, a few at a time and each once however many
    requests bring it; a good verdict is remembered for ten seconds, under a keyed hash of the credentials. Raises
    ValueError for a hash of another kind.
    """

    credential_fields = frozenset([b"authorization"])
    identity_fields: frozenset[bytes] = frozenset()

    def __init__(
        self, users: Mapping[str, str], *, realm: str = "gateway", clock: Callable[[], float] = time.monotonic
    ) -> None:
        from pwdlib import PasswordHash
        from pwdlib.hashers.argon2 import Argon2Hasher
        from pwdlib.hashers.bcrypt import BcryptHasher

        hashers = (Argon2Hasher(), BcryptHasher())
        self._hasher = PasswordHash(hashers)
        for name, stored in users.items():
            if not any(hasher.identify(stored) for hasher in hashers):
                raise ValueError(f"the password of {name!r} is no argon2 or bcrypt hash")
        # htpasswd -B writes $2y$, which is $2b$ under another name.
        self._users = {name: stored.replace("$2y$", "$2b$", 1) for name, stored in users.items()}
        # Someone who does not exist takes as long as someone who does.
        self._nobody = next(iter(self._users.values()), None) or self._hasher.hash(secrets.token_hex())
        self._secret = secrets.token_bytes(32)
        self._verdicts: TTLCache[bytes, Identity] = TTLCache(MAX_VERDICTS, VERDICT_TTL_S, timer=clock)
        self._verifying: dict[bytes, asyncio.Task[bool]] = {}
        # argon2 takes 64 MiB for each that runs.
        self._threads = asyncio.Semaphore(min(4, os.cpu_count() or 1))
        self._challenge = [(b"www-authenticate", f'Basic realm="{realm}", charset="UTF-8"'.encode("ascii"))]

    async def authenticate(self, scope: Scope) -> Identity:
        """Who sent the request; Unauthorized with a challenge when nobody is known by these credentials."""
        value = _credentials_in(scope["headers"])
        if value is None:
            raise self._unauthorized("no credentials")
        key = self._key(value)
        identity = self._verdicts.get(key)
        if identity is None:
            name, password = self._credentials(value)
            if not await self._is_right(key, name, password):
                raise self._unauthorized("wrong name or password")
            identity = self._verdicts[key] = Identity(name)
        return identity

    def known(self, headers: Fields) -> Identity | None:
        """Who sent a request, if the credentials in its fields have been verified a moment ago."""
        value = _credentials_in(headers)
        return None if value is None else self._verdicts.get(self._key(value))

    def _key(self, value: bytes) -> bytes:
        return hmac.digest(self._secret, value, hashlib.sha256)

    async def _is_right(self, key: bytes, name: str, password: str) -> bool:
        task = self._verifying.get(key)
        if task is None:
            if len(self._verifying) >= MAX_VERIFYING:
                raise Overloaded(f"{MAX_VERIFYING} passwords wait to be verified")
            task = self._verifying[key] = asyncio.create_task(self._verify(name, password))
            task.add_done_callback(lambda _: self._verifying.pop(key, None))
        # A client that leaves takes nothing from the others who wait for the same verdict.
        return await asyncio.shield(task)

    async def _verify(self, name: str, password: str) -> bool:
        stored = self._users.get(name)
        async with self._threads:
            matches = await asyncio.to_thread(self._matches, password, stored or self._nobody)
        return matches and stored is not None

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return bool(self._hasher.verify(password, stored))
        except ValueError:
            # bcrypt takes no more than 72 bytes.
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
        if not colon or "\0" in password:
            raise self._unauthorized("malformed credentials")
        return name, password

    def _unauthorized(self, reason: str) -> Unauthorized:
        return Unauthorized(reason, headers=list(self._challenge))


def _credentials_in(headers: Fields) -> bytes | None:
    value = single_value(headers, b"authorization")
    return None if value is None or len(value) > MAX_CREDENTIALS_BYTES else value
