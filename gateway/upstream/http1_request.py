"""The head of an HTTP/1.1 request, written anew: RFC 9112 sections 3, 5 and 6. Values in, bytes out; no I/O."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx

from gateway.errors import BadRequest
from gateway.http.fields import Fields
from gateway.upstream.messages import OutboundRequest, RequestStream

# Controls that the count of line ends does not see.
_CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\r\n")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_COMMON_METHODS = frozenset([b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])

_join_field = b": ".join


def request_head(method: bytes, target: bytes, fields: Fields, body: bytes | RequestStream | None) -> bytes:
    """The request up to and including its empty line; ``fields`` have lower-case names.

    Transfer-Encoding is added for a stream without a length, Content-Length where it is missing. Raises BadRequest for
    what an upstream could read as something else than is meant.
    """
    if method not in _COMMON_METHODS and not _METHOD.fullmatch(method):
        raise BadRequest(f"a malformed method: {method[:40]!r}")
    if not target or b" " in target or b"\t" in target:
        raise BadRequest("a target that is empty or has a space in it")
    lines = [method + b" " + target + b" HTTP/1.1"]
    lines += map(_join_field, fields)
    if body is not None:
        lines += _framing_lines(fields, body)
    count = len(lines) + 1
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    # One look at the joined block instead of one at each field: 0.6 us for ten fields against 2.
    if head.count(b"\n") != count or head.count(b"\r") != count or len(head.translate(None, _CONTROLS)) != len(head):
        raise BadRequest("control bytes in the target or in a field")
    if body is None and (b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head):
        _check_announces_nothing(fields)
    return head


def target_of(request: OutboundRequest) -> bytes:
    """Path and query as they go on the wire."""
    target: bytes = request.extensions.get("target") or request.url.raw_path
    return target


def _framing_lines(fields: Fields, body: bytes | RequestStream) -> tuple[bytes, ...]:
    """The line that has to be added so that the body is framed, RFC 9112 section 6, once and in one way."""
    length = len(body) if isinstance(body, bytes) else body.length
    announced: bytes | None = None
    for name, value in fields:
        if name == b"transfer-encoding" or (name == b"content-length" and announced is not None):
            raise BadRequest("the framing of the request is not the transport's own")
        if name == b"content-length":
            announced = value
    if length is None:
        if announced is not None:
            raise BadRequest("Content-Length on a body of unknown length")
        return (b"transfer-encoding: chunked",)
    if announced is None:
        return (b"content-length: %d" % length,)
    if announced != b"%d" % length:
        raise BadRequest("Content-Length is not the length of the body")
    return ()


def _check_announces_nothing(fields: Fields) -> None:
    """A request without a body may say so, but no more than that."""
    framing = [field for field in fields if field[0] in (b"content-length", b"transfer-encoding")]
    if framing != [(b"content-length", b"0")]:
        raise BadRequest("the request announces a body that it does not have")


def from_httpx(request: httpx.Request) -> OutboundRequest:
    """An ordinary httpx request as this transport takes it; the framing is made anew."""
    fields = [(name.lower(), value) for name, value in request.headers.raw]
    fields = [field for field in fields if field[0] != b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    body: bytes | RequestStream | None
    if isinstance(request.stream, httpx.ByteStream):
        data = b"".join(request.stream)
        body = data if data or lengths else None
    elif isinstance(request.stream, httpx.AsyncByteStream):
        body = _HttpxStream(request.stream, int(lengths[0]) if lengths and lengths[0].isdigit() else None)
    else:
        raise TypeError("a request body that can only be read synchronously")
    return OutboundRequest(request.method.encode("ascii"), request.url, fields, body, request.extensions)


class _HttpxStream:
    """The body of an ordinary httpx request."""

    def __init__(self, stream: httpx.AsyncByteStream, length: int | None) -> None:
        self.length = length
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)
