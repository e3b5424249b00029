"""Decodes coded request bodies, so that the service behind need not know about codings.

app.add_middleware(DecompressionMiddleware, max_body=10 * 1024 * 1024)
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BodyTooLarge, ClientError, NotDecodable, UnsupportedCoding
from gateway.http.coding import DECODABLE, BoundedDecoder, DecodingError, TooMuchDecoded
from gateway.http.fields import Fields, get_all, without
from gateway.http.negotiation import parse_codings
from gateway.middleware.decoding import PacedSteps
from gateway.middleware.refusal import refuse

MAX_LAYERS = 3

# What a body in other bytes no longer has: its coding, its length and the digests over its bytes.
_STALE_FIELDS = frozenset(
    [b"content-encoding", b"content-length", b"content-md5", b"content-digest", b"repr-digest", b"digest"]
)
_ACCEPTED = ", ".join(DECODABLE).encode("ascii")
# Without a limit of bytes this is what keeps a bomb out.
_MAX_RATIO = 1000.0


class DecompressionMiddleware:
    """Decodes request bodies in gzip, br, zstd or deflate, up to three of them stacked, RFC 9110 section 8.4.

    ``max_body`` bounds the decoded body in bytes, None for no bound: beyond, the answer is 413. Data that does not
    decode is 400, an unknown coding 415 with the known ones in Accept-Encoding (section 15.5.16). Bodies stream.
    """

    def __init__(self, app: ASGIApp, *, max_body: int | None = 64 * 1024 * 1024) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        codings = parse_codings(get_all(headers, b"content-encoding"))
        if not codings or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        if len(codings) > MAX_LAYERS or any(coding not in DECODABLE for coding in codings):
            error = UnsupportedCoding("unknown or too many codings", headers=[(b"accept-encoding", _ACCEPTED)])
            await refuse(error, scope, send)
            return
        fields: Fields = without(headers, _STALE_FIELDS)
        if all(name != b"transfer-encoding" for name, _ in fields):
            # There is a body, and nobody knows its length any more.
            fields.append((b"transfer-encoding", b"chunked"))
        request = _Request(codings, self.max_body, receive, send)
        try:
            await self.app({**scope, "headers": fields}, request.receive, request.send)
        except Exception:
            if not request.owes_answer:
                raise
        if request.owes_answer and request.error is not None:
            await refuse(request.error, scope, send)


def _has_body(scope: Scope) -> bool:
    """Whether a body comes, RFC 9112 section 6.3; HTTP/2 and later frame it without fields."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return True
        if name == b"content-length":
            return bool(value.strip(b"0"))
    return not scope.get("http_version", "1.1").startswith("1")


class _Request:
    """The body of one request on its way in.

    Whoever asks for a body that cannot be decoded gets the error raised. What it makes of that, often an answer of 500
    or none, is not what the client must hear: until an answer has begun, the error is the answer.
    """

    __slots__ = (
        "_ahead",
        "_coded_bytes",
        "_decoder",
        "_max_body",
        "_more",
        "_receive",
        "_send",
        "_started",
        "_steps",
        "error",
    )

    def __init__(self, codings: list[str], max_body: int | None, receive: Receive, send: Send) -> None:
        ratio = _MAX_RATIO if max_body is None else None
        self._decoder = BoundedDecoder(codings, max_bytes=max_body, max_ratio=ratio)
        self._max_body = max_body
        self._receive = receive
        self._send = send
        self._steps: PacedSteps | None = None
        """What is left to decode of the last message."""
        self._ahead: bytes | None = None
        """The piece after the last one that was handed on: whether that was the last must be known."""
        self._more = True
        self._coded_bytes = 0
        self._started = False
        self.error: ClientError | None = None

    @property
    def owes_answer(self) -> bool:
        """Whether the body could not be decoded and no answer has begun."""
        return self.error is not None and not self._started

    async def receive(self) -> Message:
        """The next message with decoded bytes. Raises NotDecodable and BodyTooLarge."""
        if self.error is not None:
            raise self.error
        # Whoever asks may be cancelled at each await: nothing is taken out of the state before all of it is there.
        while True:
            if self._steps is None:
                if not self._more:
                    return await self._receive()
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._steps = self._take(message)
            if self._ahead is None:
                self._ahead = await self._next(self._steps)
            if self._ahead is not None:
                following = await self._next(self._steps)
                piece, self._ahead = self._ahead, following
                if following is None:
                    self._steps = None
                return {"type": "http.request", "body": piece, "more_body": self._more or following is not None}
            self._steps = None
            if not self._more:
                return {"type": "http.request", "body": b"", "more_body": False}

    def _take(self, message: Message) -> PacedSteps:
        coded = message.get("body", b"")
        self._more = message.get("more_body", False)
        self._coded_bytes += len(coded)
        if self._max_body is not None and self._coded_bytes > self._max_body + self._max_body // 16 + 1024:
            # Empty frames decode to nothing for ever; no honest coding is that much larger than its content.
            raise self._failed(BodyTooLarge(f"the coded request body exceeds {self._max_body} bytes"))
        return PacedSteps(self._decoder, coded)

    async def _next(self, steps: PacedSteps) -> bytes | None:
        """The next decoded piece, None after the last of this message."""
        try:
            piece = await steps.next()
        except TooMuchDecoded as error:
            raise self._failed(BodyTooLarge(f"the request body is too large: {error}")) from error
        except DecodingError as error:
            raise self._failed(NotDecodable(f"the request body does not decode: {error}")) from error
        if piece is None and not self._more and self._coded_bytes and not self._decoder.complete:
            raise self._failed(NotDecodable("the coded request body ends too early"))
        return piece

    def _failed(self, error: ClientError) -> ClientError:
        self.error = error
        return error

    async def send(self, message: Message) -> None:
        """Pass the answer on, unless the error is the answer."""
        if self.owes_answer:
            return
        self._started = True
        await self._send(message)
