"""What happened to one request: filled on the way, read once by the access log and the metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.http.fields import Fields
    from gateway.http.forwarded import Identity
    from gateway.http.target import RequestPath

logger = logging.getLogger("gateway")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]

ResponseRule = Callable[[Scope, Message], None]
"""Changes a response head on its way out: gets the scope and an ``http.response.start`` whose headers it owns."""

Recorder = Callable[["Exchange"], None]
"""Reads an exchange that has ended."""

SCOPE_KEY = "gateway.exchange"
"""Where the exchange stands in the ASGI scope."""

BEGUN_KEY = "gateway.begun"
"""Where a scope has an exchange that was begun on the short way, a ``gateway.express.exchange.ExpressExchange``."""

WHOLE_FOLLOWS = "gateway.whole_follows"
"""Key of an ``http.response.start`` whose complete body comes with the very next message: holding the head back until
then delays nothing."""

TAGS_AS_GIVEN = "gateway.tags_as_given"
"""Key of a scope whose If-None-Match has tags as the upstream gave them: no coding on the way has weakened one."""

BODY_FAILURE = "gateway.body_failure"
"""Key of an ``http.disconnect``: the GatewayError that ended the request body while its client may still read an
answer."""

Outcome = Literal["done", "refused", "failed", "client-left", "aborted"]
"""How an exchange ended: answered by upstream, cache or a fixed response; refused because of the client or of
capacity; answered with an error because the upstream failed; left by the client; cut after the response head."""


class Attempt:
    """One try at one endpoint."""

    __slots__ = ("connect_s", "endpoint", "failed_s", "head_s", "outcome", "started", "status")

    def __init__(self, endpoint: str, started: float) -> None:
        self.endpoint = endpoint
        self.started = started
        self.connect_s: float | None = None
        self.head_s: float | None = None
        """Seconds to the response head; None when there was none."""
        self.failed_s: float | None = None
        """Seconds to the failure of an attempt without a response head."""
        self.status: int | None = None
        self.outcome = ""
        """``"ok"`` when there was a response head, else the name of the error class, e.g. ``"ConnectFailed"``."""


class Exchange:
    """One request and its response. Times are monotonic seconds; ``wall_time`` is seconds since the epoch."""

    __slots__ = (
        "attempts",
        "body_bytes_in",
        "body_bytes_out",
        "cache",
        "cache_detail",
        "chain",
        "client",
        "decision",
        "error",
        "finished",
        "host",
        "messages_in",
        "messages_out",
        "method",
        "outcome",
        "params",
        "path",
        "peer",
        "peer_trusted",
        "public_host",
        "request_id",
        "response_fields",
        "response_rules",
        "route",
        "scheme",
        "started",
        "status",
        "target",
        "upstream",
        "user",
        "wall_time",
    )

    def __init__(self, method: str, target: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self.started = clock()
        self.wall_time = time.time()
        self.finished = 0.0
        self.method = method
        self.target = target
        """Path and query exactly as the client sent them, without a mount prefix."""
        self.peer = ""
        """Address of the other end of the TCP connection; ``"unix"`` on a UNIX socket."""
        self.peer_trusted = False
        self.client = ""
        """Address of the client as far as trusted proxies can be believed."""
        self.chain: tuple[str, ...] = ()
        """Believed addresses from the client to the proxy before the peer; empty when the peer is the client."""
        self.scheme = "http"
        """The public scheme."""
        self.host = ""
        """Host for matching: lower case, without port and trailing dot."""
        self.public_host = b""
        """The Host field as the client sent it."""
        self.request_id = ""
        self.route = ""
        self.path: RequestPath | None = None
        """The path, read for matching; None until it has been found safe."""
        self.params: Mapping[str, bytes] = {}
        """What the names of the route's path matched: the client's raw bytes."""
        self.user = ""
        """Who the gateway's own authentication says it is."""
        self.upstream = ""
        self.attempts: list[Attempt] = []
        self.decision = ""
        """How many endpoints the balancer had to choose from and why the others were out; empty when none was."""
        self.cache = ""
        """``hit``, ``miss``, ``stale``, ``revalidated``, ``bypass``, ``collapsed`` or empty: no cache on the route."""
        self.cache_detail = ""
        self.status = 0
        self.body_bytes_in = 0
        self.body_bytes_out = 0
        self.messages_in = 0
        self.messages_out = 0
        self.outcome: Outcome = "done"
        self.error: GatewayError | None = None
        self.response_fields: list[tuple[bytes, bytes]] = []
        """Fields of this answer to this client alone, such as a sticky cookie: added outside every cache."""
        self.response_rules: tuple[ResponseRule, ...] = ()
        """Rules of the chosen route, run on every response head, whoever made it."""


_MAX_NOTES = 64


class Admitted:
    """A header section that has been let in: who sent it, and what of it may be read.

    Requests of the same client that repeat the section to the byte share it. ``request_id`` is empty unless a
    trusted peer gave one. ``notes`` is for whoever handles the requests, to keep what was made of the fields.
    """

    __slots__ = (
        "fields",
        "has_certificate",
        "has_weak_tags",
        "host",
        "identity",
        "names",
        "notes",
        "prefix",
        "public_host",
        "request_id",
        "user",
    )

    def __init__(
        self,
        identity: Identity,
        host: str,
        public_host: bytes,
        request_id: str,
        fields: Fields,
        *,
        has_certificate: bool = False,
        prefix: bytes = b"",
        names: tuple[bytes, ...] | None = None,
        user: str = "",
    ) -> None:
        self.identity = identity
        self.host = host
        self.public_host = public_host
        self.request_id = request_id
        self.fields = fields
        self.has_certificate = has_certificate
        """Whether the client has shown who it is by a certificate, RFC 9111 section 3.5."""
        self.prefix = prefix
        """The path that the gateway is mounted under: it leads every public path."""
        self.user = user
        """Who the route's authentication says it is."""
        self.names = names
        """Those of the fields, where sections with these names are common; None where nothing is known about that."""
        self.has_weak_tags = (names is None or b"if-none-match" in names) and any(
            [b"W/" in value for name, value in fields if name == b"if-none-match"]
        )
        self.notes: dict[object, Any] = {}

    def note(self, about: object, value: Any) -> None:
        """Keep ``value`` in ``notes``, of which there are not many: what they are about comes and goes."""
        if len(self.notes) >= _MAX_NOTES:
            self.notes.clear()
        self.notes[about] = value

    def describe(self, exchange: Exchange, request_id: str) -> None:
        """Write down who sent the request; ``request_id`` is for one that brought none."""
        identity = self.identity
        exchange.peer = identity.peer
        exchange.peer_trusted = identity.trusted
        exchange.client = identity.client
        exchange.chain = identity.chain
        exchange.scheme = identity.scheme
        exchange.host = self.host
        exchange.public_host = self.public_host
        exchange.request_id = self.request_id or request_id
        exchange.user = self.user


def record_ended(exchange: Exchange, recorders: Iterable[Recorder]) -> None:
    """Give an exchange that has ended to every recorder; one that fails is logged, for the client has its answer."""
    for record in recorders:
        try:
            record(exchange)
        except Exception:
            logger.exception("request %s could not be recorded", exchange.request_id)


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange of a request inside the gateway; None where a middleware is used on its own."""
    found: Exchange | None = scope.get(SCOPE_KEY)
    return found
