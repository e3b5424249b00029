"""Parses what an upstream answers to a WebSocket handshake."""

from __future__ import annotations

from collections import deque

import httptools

from gateway.errors import BadUpstreamResponse, ConnectionBroken, ResponseBroken
from gateway.http.fields import Fields, content_length, get_first

_MAX_INTERIM = 32
_BODILESS = frozenset([204, 304])


class HandshakeAnswer:
    """The head of the final answer, and the body of a refusal; bytes are fed, nothing is read.

    ``fields`` have lower-case names. ``body`` holds the pieces that nobody has taken yet. ``max_head_bytes`` bounds
    the head; interim answers (RFC 9110 section 15.2) are skipped.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self.status = 0
        self.fields: Fields = []
        self.body: deque[bytes] = deque()
        self.has_head = False
        self.complete = False
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._fed_bytes = 0
        self._interim = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the answer; what follows the head of a 101 is given back. Raises BadUpstreamResponse."""
        parser = self._parser
        if self.complete or parser is None:
            return b""
        if not self.has_head:
            self._fed_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            # After the end, or after a 101 without the fields of one, the parser's opinion does not matter.
            if not self.complete:
                cause = error.__context__
                if isinstance(cause, BadUpstreamResponse):
                    raise cause from None
                raise BadUpstreamResponse(f"the answer to the handshake is not HTTP: {error}") from error
        finally:
            self._let_go_if_complete()
        if not self.has_head and self._fed_bytes > self._max_head_bytes:
            raise BadUpstreamResponse(f"the response head exceeds {self._max_head_bytes} bytes")
        return b""

    def let_go(self) -> None:
        """Take nothing more: the parser refers to the answer, and both would wait for the garbage collector."""
        self._parser = None

    def _let_go_if_complete(self) -> None:
        if self.complete:
            self.let_go()

    def feed_eof(self) -> None:
        """The upstream ended its stream. Raises ConnectionBroken, or ResponseBroken where a body is cut short."""
        if not self.has_head:
            raise ConnectionBroken("the upstream closed the connection before it answered the handshake")
        framed = content_length(self.fields) is not None or get_first(self.fields, b"transfer-encoding") is not None
        if not self.complete and framed:
            raise ResponseBroken("the upstream's refusal of the handshake is cut short")
        self.complete = True

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_head_bytes:
            raise BadUpstreamResponse(f"the response head exceeds {self._max_head_bytes} bytes")
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            return
        if not 101 <= status <= 599 or (status == 101 and self._parser.get_http_version() != "1.1"):
            raise BadUpstreamResponse(f"status {status} in HTTP/{self._parser.get_http_version()}")
        self.status = status
        self.has_head = True
        self.complete = status == 101 or status in _BODILESS

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.complete = True
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            raise BadUpstreamResponse(f"more than {_MAX_INTERIM} interim answers")
        self.fields = []
