"""The keys that a token issuer publishes, RFC 7517: fetched, kept, and fetched again as it rotates them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from gateway.errors import CapacityError
from gateway.middleware.auth import Fetch

logger = logging.getLogger("gateway.auth")

REFRESH_S = 300.0
"""How long a key set is used before it is fetched again."""
MIN_REFRESH_S = 10.0
"""How soon after a fetch a token with an unknown key makes it be fetched again."""
RETRY_S = 1.0
"""The same while there are no keys at all."""
MAX_AGE_S = 86_400.0
"""How long keys are used when their issuer does not answer any more."""
MAX_KEYS = 100

_ASKED_WITH = ((b"accept", b"application/jwk-set+json, application/json"), (b"user-agent", b"gateway"))


class IssuerKeys:
    """The signature keys at ``url``. Tokens never wait for a fetch while the key that they name is at hand."""

    def __init__(self, url: str, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.version = 0
        """Grows with every change of the keys."""
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._all: list[Any] = []
        self._by_id: dict[str, list[Any]] = {}
        self._published: object = None
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def candidates(self, key_id: str | None) -> Sequence[Any]:
        """The keys that may have signed a token; all of them for one that names none.

        Raises CapacityError when the issuer has not been reached for a day, or never.
        """
        now = self._clock()
        self.refresh_if_due(now)
        found = self._find(key_id)
        if found and now - self._fetched_at <= MAX_AGE_S:
            return found
        wait_s = MIN_REFRESH_S if self._all else RETRY_S
        if self._fetching is None and now - self._tried_at >= wait_s:
            self._start(now)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        if self._clock() - self._fetched_at > MAX_AGE_S:
            raise CapacityError("the keys of the token issuer cannot be fetched")
        return self._find(key_id)

    def refresh_if_due(self, now: float) -> None:
        """Fetch in the background when the keys in use are old."""
        is_old = now - self._fetched_at > REFRESH_S and now - self._tried_at >= MIN_REFRESH_S
        if is_old and self._all and self._fetching is None:
            self._start(now)

    def _find(self, key_id: str | None) -> Sequence[Any]:
        return self._all if key_id is None else self._by_id.get(key_id, ())

    def _start(self, now: float) -> None:
        self._tried_at = now
        self._fetching = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            answer = await self._fetch(self._url, _ASKED_WITH)
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            published = json.loads(answer.body)
            if published != self._published:
                self._use(signature_keys(published))
                self._published = published
                self.version += 1
            self._fetched_at = self._clock()
        except Exception as error:  # Whatever an issuer sends: the old keys stay in use.
            logger.warning("the keys at %s cannot be fetched: %s", self._url, error)
        finally:
            self._fetching = None

    def _use(self, keys: list[Any]) -> None:
        self._all, self._by_id = keys, {}
        for key in keys:
            if key.kid is not None:
                self._by_id.setdefault(key.kid, []).append(key)


def signature_keys(published: Any) -> list[Any]:
    """The usable keys of a key set; what is not understood is passed over, RFC 7517 section 5.

    Secrets (``oct``) are none that could be published. Raises ValueError when nothing is left.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    entries = published.get("keys") if isinstance(published, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("no key set, or one with too many keys")
    keys = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            with warnings.catch_warnings():
                # The library warns of short keys; which ones to use is the issuer's decision.
                warnings.simplefilter("ignore")
                key = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        keys.append(key)
    if not keys:
        raise ValueError("no key that can verify a signature")
    return keys
