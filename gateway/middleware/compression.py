"""Codes answers in what the client takes, and decodes what it does not take.

app.add_middleware(CompressionMiddleware, min_size=512)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BadUpstreamResponse, ResponseBroken
from gateway.exchange import TAGS_AS_GIVEN, WHOLE_FOLLOWS
from gateway.http.coding import (
    CODINGS,
    DECODABLE,
    OFFLOAD_BYTES,
    BoundedDecoder,
    DecodingError,
    Encoder,
    Level,
    TooMuchDecoded,
    make_encoder,
)
from gateway.http.fields import Fields, add_vary, get_joined, without
from gateway.http.negotiation import IDENTITY, choose_coding, is_accepted, parse_codings
from gateway.middleware.asgi3 import asgi3
from gateway.middleware.decoding import PacedSteps

COMPRESSIBLE_TYPES = (
    "text/*",
    "application/atom+xml",
    "application/geo+json",
    "application/graphql-response+json",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/problem+json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "image/x-icon",
)

# What a body in another coding no longer has: the name of its coding, its length, its byte positions, and the digests
# over its bytes.
_STALE_FIELDS = frozenset(
    [
        b"content-encoding",
        b"content-length",
        b"accept-ranges",
        b"content-md5",
        b"content-digest",
        b"repr-digest",
        b"digest",
    ]
)
_DECIDING = frozenset([b"content-length", b"content-type", b"content-encoding", b"cache-control"])
_NEVER_CODED = frozenset([204, 205, 206])
# Thousands of streams of events may be open at a time, and each keeps its encoder: events repeat what is near, and one
# for bodies of this length has 290 KiB with zstd in the place of 780.
_EVENTS_TYPE = b"text/event-stream"
_EVENTS_BYTES = 16 * 1024
_MAX_DECODED_BYTES = 64 * 1024 * 1024
_MAX_DECODED_RATIO = 100.0


class CompressionMiddleware:
    """Codes response bodies, RFC 9110 sections 8.4 and 12.5.3.

    ``codings`` in order of preference among what the client weighs equally. ``min_size`` in bytes applies where the
    length is known. ``types`` are media types, ``text/*`` standing for a whole tree. Bodies stream: each message leaves
    at once, flushed. Large pieces are coded in a thread.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        codings: Sequence[str] = CODINGS,
        min_size: int = 1024,
        types: Sequence[str] = COMPRESSIBLE_TYPES,
        level: Level = "fast",
    ) -> None:
        unknown = sorted(set(codings) - set(CODINGS))
        if unknown:
            raise ValueError(f"unknown codings: {', '.join(unknown)}; known are {', '.join(CODINGS)}")
        self.app = app
        self.codings = tuple(codings)
        self.min_size = min_size
        self.level = level
        self._bytes_a_turn = self._bytes_left = OFFLOAD_BYTES[level]
        self._exact_types = frozenset(name.lower().encode() for name in types if not name.endswith("/*"))
        self._type_trees = tuple(name.lower().encode()[:-1] for name in types if name.endswith("/*"))

    # A plain function: there is nothing to do after the application, and a coroutine would cost 0.5 us.
    @asgi3
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        headers = scope["headers"]
        none_match: bytes | None = None
        for name, value in headers:
            if name == b"if-none-match":
                none_match = value
                break
        if none_match is not None and b"W/" in none_match and TAGS_AS_GIVEN not in scope:
            scope = {**scope, "headers": _match_strong_too(headers)}
        return self.app(scope, receive, _Response(self, scope["method"], headers, none_match, send).send)

    def may_hold_loop(self, size: int) -> bool:
        """Whether so many bytes may be coded on the event loop: twenty bodies at a time hold it no longer than one."""
        left = self._bytes_left
        if size > left:
            return False
        if left == self._bytes_a_turn and size:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._bytes_left = left - size
        return True

    def _begin_turn(self) -> None:
        self._bytes_left = self._bytes_a_turn

    def is_compressible(self, media_type: bytes) -> bool:
        """Whether bodies of a Content-Type value gain from coding."""
        essence = media_type.split(b";", 1)[0].strip().lower()
        return essence in self._exact_types or essence.startswith(self._type_trees)


class _Response:
    """The answer of one request: decided at its head, then coded piece by piece."""

    __slots__ = ("_decoder", "_encoder", "_head", "_method", "_none_match", "_policy", "_request", "_send")

    def __init__(
        self,
        policy: CompressionMiddleware,
        method: str,
        request: Sequence[tuple[bytes, bytes]],
        none_match: bytes | None,
        send: Send,
    ) -> None:
        self._policy = policy
        self._method = method
        self._request = request
        self._none_match = none_match
        self._send = send
        self._encoder: Encoder | None = None
        self._decoder: BoundedDecoder | None = None
        self._head: Message | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message on; a plain function, for most answers are not coded and need no coroutine of their own."""
        if message["type"] == "http.response.start":
            message = self._decide(message)
            if self._head is not None:
                return _nothing()
        elif message["type"] == "http.response.body" and (self._encoder is not None or self._decoder is not None):
            return self._send_coded(message)
        return self._send(message)

    def _decide(self, message: Message) -> Message:
        """The head as it goes out; sets encoder and decoder, and keeps the head back while its length is to come."""
        status = message["status"]
        if status < 200 or status in _NEVER_CODED:
            return message
        length: int | None = None
        media_type = coded = b""
        # One pass over the fields, for most answers are small and need no more than that: 0.7 us instead of 3.
        for name, value in message.get("headers", ()):
            if name not in _DECIDING:
                continue
            if name == b"content-length":
                length = int(value) if value.isdigit() else None
            elif name == b"content-type":
                media_type = media_type or value
            elif name == b"content-encoding":
                coded = coded + b"," + value if coded else value
            elif b"no-transform" in value.lower() and _forbids_transformation(message["headers"]):
                return message
        if status == 304:
            return {**message, "headers": self._weaken_if_asked_for(message.get("headers", ()))}
        if coded:
            applied = parse_codings([coded])
            if applied:
                return self._decide_coded(message, list(message["headers"]), applied)
        small = length is not None and length < self._policy.min_size
        if small or not self._policy.is_compressible(media_type):
            return message
        fields: Fields = list(message["headers"])
        add_vary(fields, b"Accept-Encoding")
        coding = choose_coding(self._accept(), self._policy.codings)
        if coding == IDENTITY or self._method == "HEAD":
            return {**message, "headers": fields}
        if media_type.startswith(_EVENTS_TYPE):
            length = _EVENTS_BYTES
        return self._encode_from(message, fields, coding, length)

    def _accept(self) -> bytes | None:
        return get_joined(self._request, b"accept-encoding")

    def _decide_coded(self, message: Message, fields: Fields, applied: list[str]) -> Message:
        """An upstream that coded its answer: as it is where the client takes it, else decoded, else coded anew."""
        accept = self._accept()
        if all(is_accepted(coding, accept) for coding in applied):
            return message
        if len(applied) > 3 or any(coding not in DECODABLE for coding in applied):
            return message
        add_vary(fields, b"Accept-Encoding")
        if self._method == "HEAD":
            return {**message, "headers": fields}
        self._decoder = BoundedDecoder(applied, max_bytes=_MAX_DECODED_BYTES, max_ratio=_MAX_DECODED_RATIO)
        coding = choose_coding(accept, self._policy.codings)
        if coding != IDENTITY:
            return self._encode_from(message, fields, coding, None)
        return {**message, "headers": _for_other_bytes(fields)}

    def _encode_from(self, message: Message, fields: Fields, coding: str, length: int | None) -> Message:
        self._encoder = make_encoder(coding, self._policy.level, length)
        fields = _for_other_bytes(fields)
        fields.append((b"content-encoding", coding.encode("ascii")))
        message = {**message, "headers": fields}
        if message.get(WHOLE_FOLLOWS):
            self._head = message
        return message

    def _weaken_if_asked_for(self, fields: Iterable[tuple[bytes, bytes]]) -> Fields:
        """A client that holds the coded answer knows it by a weak validator: 304 must name the same one."""
        held = _tags(self._none_match)
        return [
            (name, b"W/" + value) if name == b"etag" and value not in held and b"W/" + value in held else (name, value)
            for name, value in fields
        ]

    async def _send_coded(self, message: Message) -> None:
        if self._decoder is None:
            await self._send_piece(message, message.get("body", b""), message.get("more_body", False))
            return
        steps = PacedSteps(self._decoder, message.get("body", b""))
        more = message.get("more_body", False)
        piece = await self._next(steps, more)
        while piece is not None:
            following = await self._next(steps, more)
            await self._send_piece(message, piece, more or following is not None)
            if following is None:
                return
            piece = following
        await self._send_piece(message, b"", more)

    async def _send_piece(self, message: Message, body: bytes, more: bool) -> None:
        """Send a piece of the plain body, coded; the head first where it waits for what its length may be."""
        if self._encoder is not None:
            if self._policy.may_hold_loop(len(body)):
                body = self._encode(self._encoder, body, more)
            else:
                body = await asyncio.to_thread(self._encode, self._encoder, body, more)
        if self._head is not None:
            head, self._head = self._head, None
            if not more:
                head["headers"].append((b"content-length", b"%d" % len(body)))
            await self._send(head)
        if body or not more:
            await self._send({**message, "body": body, "more_body": more})

    @staticmethod
    def _encode(encoder: Encoder, body: bytes, more: bool) -> bytes:
        coded = encoder.encode(body) if body else b""
        if not more:
            return coded + encoder.finish()
        return coded + encoder.flush() if body else coded

    async def _next(self, steps: PacedSteps, more: bool) -> bytes | None:
        """The next decoded piece of a message, None after the last.

        Raises ResponseBroken, or BadUpstreamResponse while the head is still here and can be another.
        """
        failure = ResponseBroken if self._head is None else BadUpstreamResponse
        try:
            piece = await steps.next()
        except (DecodingError, TooMuchDecoded) as error:
            raise failure(f"the response body cannot be decoded: {error}") from error
        assert self._decoder is not None
        if piece is None and not more and not self._decoder.complete:
            raise failure("the coded response body ends too early")
        return piece


async def _nothing() -> None:
    """The head waits for its body, which comes with the next message."""


def _forbids_transformation(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    value = get_joined(fields, b"cache-control")
    return value is not None and b"no-transform" in [member.strip().lower() for member in value.split(b",")]


def _for_other_bytes(fields: Fields) -> Fields:
    """The fields of a body whose bytes change: a strong validator becomes weak (RFC 9110 section 8.8.1)."""
    return [
        (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else (name, value)
        for name, value in without(fields, _STALE_FIELDS)
    ]


def _tags(none_match: bytes | None) -> list[bytes]:
    return [] if none_match is None else [tag.strip() for tag in none_match.split(b",")]


def _match_strong_too(headers: Sequence[tuple[bytes, bytes]]) -> Fields:
    """If-None-Match with the strong form beside each weak tag: the tag the service knows is the strong one."""
    fields: Fields = []
    for name, value in headers:
        if name == b"if-none-match" and value.strip() != b"*":
            tags = _tags(value)
            strong = [tag[2:] for tag in tags if tag.startswith(b"W/") and tag[2:] not in tags]
            value = b", ".join([*tags, *strong])
        fields.append((name, value))
    return fields
