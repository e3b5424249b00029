"""Clients that come again with the same words: whoever opens a connection for each request mostly repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.express.table import Express
from gateway.http.fields import may_be_secret
from gateway.http.networks import UNIX
from gateway.recent import Recent
from gateway.server.framing import PlainSection

_MAX_KNOWN = 512
# Browsers send a quarter of it. Addresses are cheap, and much is kept of a section beside its bytes.
_MAX_KNOWN_BYTES = 4096


def regular_name(address: tuple[str, int] | None, tls: Mapping[str, Any] | None) -> str:
    """Whom the client at an address is taken for; empty for one that has shown a certificate, which others have not."""
    name = UNIX if address is None else address[0]
    if tls is None:
        return name
    return f"{name} over TLS" if tls["client_cert"] is None else ""


class Regulars:
    """What the clients of one server begin their connections with, by address; bounded, and without secrets.

    Nothing but name and section may have led to what was found out: that costs 25 us, and all the rest of a connection
    with its request 75.
    """

    __slots__ = ("_express", "_known", "_recent", "find")

    def __init__(self) -> None:
        self._express: Express | None = None
        """On whose short way they all mean what is noted on them."""
        self._known: dict[str, PlainSection] = {}
        self._recent = Recent()
        # The dict's own method: every connection calls it.
        self.find = self._known.get
        """What a client has begun with more than once; None when nothing is known of it."""

    def __len__(self) -> int:
        return len(self._known)

    def meet(self, client: str, section: PlainSection) -> None:
        """``client`` has begun with ``section``: remembered when that is not the first time."""
        if section.express is not self._express:
            self.keep_only(section.express)
        if section.admitted is None or len(section.block) > _MAX_KNOWN_BYTES:
            return
        if not self._recent.has_met((client, section.block)):
            return
        # All names at once: each call costs as much as the search.
        if may_be_secret(b" ".join([name for name, _ in section.fields])):
            return
        if client not in self._known and len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[client] = section

    def keep_only(self, express: Express | None) -> None:
        """Forget what sections mean on other short ways than ``express``: it would keep their whole table alive."""
        if express is not self._express:
            self._express = express
            self._known.clear()
