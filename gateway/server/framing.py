"""Reads request heads, RFC 9112: one spelling for each meaning, everything else refused. No I/O.

A head whose every line is beyond doubt is taken apart here, for clients repeat most of their lines, and one that is
known costs 0.1 us. The rest is for llhttp in its strict mode to judge; what that lets through is closed here:
runs of spaces in the request line, versions other than 1.0 and 1.1, transfer codings beside ``chunked``,
Transfer-Encoding in HTTP/1.0. The parser never sees a body: lengths are counted and chunks decoded elsewhere, so that
no byte is taken for the wrong request.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING

import httptools

from gateway.errors import BadRequest, HeadersTooLarge, MethodNotImplemented, TargetTooLong
from gateway.http.field_lines import FieldLines, MalformedLine
from gateway.http.fields import Fields

if TYPE_CHECKING:
    from gateway.exchange import Admitted
    from gateway.express.table import Express

HEAD_END = b"\r\n\r\n"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
MAX_LENGTH = 2**63 - 1
"""Of a body, or of one chunk."""

_EMPTY_LINES = re.compile(rb"(?:\r\n)*")

MAX_KNOWN_LINES = 2048
"""Field lines of requests that are remembered."""

_MAX_METHOD_BYTES = 32
# A head takes more than twice its length, and 10,000 connections may idle.
_MAX_IDLE_BYTES = 4 * 1024
_MAX_LENGTH_DIGITS = 19
_METHOD = re.compile(TOKEN)
# Nothing in it is tried twice: what a client can make run long holds everybody up.
_CODINGS = re.compile(rb"(?:" + TOKEN + rb"[ \t]*+(?:;[^,]*+)?,[ \t]*+)*+chunked", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"https?://([^/?#@\\]+)([/?].*)?", re.IGNORECASE)
# What no parser reads in two ways; anything else in a target is for the parser to judge.
_PLAIN_TARGET = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
# With a plain target they need no parser: what else a head means is in its fields.
_PLAIN_METHODS = frozenset([b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
_name = itemgetter(0)
_SPECIAL = frozenset([b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade"])


def without_empty_lines(data: bytes) -> bytes:
    """What follows the empty lines before a request line, which are ignored, RFC 9112 section 2.2.

    Half of one is kept. Raises BadRequest for a bare CR.
    """
    rest = data[_EMPTY_LINES.match(data).end() :]  # type: ignore[union-attr]  # it matches no line as well
    if rest[:1] == b"\r" and len(rest) > 1:
        raise BadRequest("a bare CR before the request line")
    return rest


class PlainSection:
    """The header section of a plain GET as it came, with the line end before it, and what it says.

    What it means on the short way of ``express`` is for whoever handles the requests to find out and note: ``admitted``
    is None when it has to go the long way.
    """

    __slots__ = ("admitted", "block", "express", "fields", "keep_alive")

    def __init__(self, block: bytes, fields: Fields, keep_alive: bool) -> None:
        self.block = block
        self.fields = fields
        self.keep_alive = keep_alive
        self.express: Express | None = None
        self.admitted: Admitted | None = None


_NO_SECTION = PlainSection(b"", [], True)


class HeadReader:
    """Reads one request head after the other; the results of the last one are its attributes.

    ``max_header_bytes`` counts the field lines with their line ends, ``max_target_bytes`` the target as it was sent.
    ``known_lines`` may be shared by the readers of many connections.
    """

    __slots__ = (
        "_known_lines",
        "_max_header_bytes",
        "_max_headers",
        "_max_target_bytes",
        "_parser",
        "_special",
        "chunked",
        "expects_continue",
        "fields",
        "is_http_11",
        "is_long",
        "is_plain",
        "keep_alive",
        "length",
        "method",
        "section",
        "target",
        "upgrade",
    )

    def __init__(
        self,
        *,
        max_header_bytes: int,
        max_headers: int,
        max_target_bytes: int,
        known_lines: FieldLines | None = None,
    ) -> None:
        self._known_lines = FieldLines(MAX_KNOWN_LINES) if known_lines is None else known_lines
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self._max_target_bytes = max_target_bytes
        self._parser: httptools.HttpRequestParser | None = None
        self._special: Fields = []
        self.section = _NO_SECTION
        """That of the last plain GET; another that the client may repeat can be put here."""
        self.method = b""
        self.target = b""
        """In origin or asterisk form; an absolute target is taken apart."""
        self.is_http_11 = True
        self.is_long = False
        """Whether it is more than a connection that idles should keep."""
        self.fields: Fields = []
        """The very same list as long as a client repeats its header section: not to be changed."""
        self.is_plain = False
        """Whether this is a GET of HTTP/1.1 for a path of plain characters, with no body and nothing to negotiate."""
        self.length: int | None = None
        """What Content-Length announces, in bytes; None without the field."""
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        self.upgrade = b""
        """The protocol that the client offers to switch to, in lower case; empty for none."""

    # Called by the parser.
    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _SPECIAL:
            self._special.append((name, value))
        self.fields.append((name, value))

    def read(self, head: bytes) -> None:
        """Read a head that ends in an empty line.

        Raises TargetTooLong, HeadersTooLarge, MethodNotImplemented (also for unknown transfer codings) and BadRequest.
        """
        line_end = head.find(b"\r\n")
        self.is_long = len(head) > _MAX_IDLE_BYTES
        self.method = self.target = b""
        self.is_plain = False
        words = head[:line_end].split(b" ")
        if len(words) > 1 and len(words[1]) > self._max_target_bytes:
            raise TargetTooLong(f"a target of {len(words[1])} bytes")
        if len(words) != 3:
            raise BadRequest("the request line is not three words with a space between")
        self.method, self.target, version = words
        # A client mostly repeats its header section to the byte: what was judged once needs no parser. Saves 2 us.
        if (
            head[line_end:] == self.section.block
            and self.method == b"GET"
            and version == b"HTTP/1.1"
            and _PLAIN_TARGET.fullmatch(self.target)
        ):
            self._repeat()
            return
        if len(head) - line_end - 4 > self._max_header_bytes:
            raise HeadersTooLarge(f"a header section of {len(head) - line_end - 4} bytes")
        # One that does not end in CR is malformed; splitting at two bytes takes twice the time.
        lines = head[line_end + 2 : -3].split(b"\n") if len(head) > line_end + 4 else []
        if len(lines) > self._max_headers:
            raise HeadersTooLarge(f"{len(lines)} header fields")
        if version == b"HTTP/1.1":
            self.is_http_11 = self.keep_alive = True
        elif version == b"HTTP/1.0":
            self.is_http_11 = self.keep_alive = False
        else:
            raise BadRequest("the version is neither HTTP/1.0 nor HTTP/1.1")
        self.length = None
        self.chunked = self.expects_continue = False
        self.upgrade = b""
        is_beyond_doubt = self._take_lines(lines)
        if not is_beyond_doubt:
            self._have_parsed(head)
        if self._special:
            self._judge(self._special)
        if (
            is_beyond_doubt
            and self.method == b"GET"
            and self.length is None
            and not (self.chunked or self.expects_continue or self.upgrade)
        ):
            self.is_plain = True
            self.section = PlainSection(head[line_end:], self.fields, self.keep_alive)

    def forget(self) -> None:
        """Let go of what the last head said."""
        self.section = _NO_SECTION
        self.fields = []
        self._special = []

    def _take_lines(self, lines: list[bytes]) -> bool:
        """Take apart a head that needs no parser; False, and nothing has happened, when this one does."""
        if (
            not self.is_http_11
            or self.method not in _PLAIN_METHODS
            or _PLAIN_TARGET.fullmatch(self.target) is None
            or not lines
        ):
            return False
        try:
            self.fields = self._known_lines.read(lines)
        except MalformedLine:
            # The parser may know better; what it refuses is refused.
            return False
        if _SPECIAL.isdisjoint(map(_name, self.fields)):
            self._special = []
        else:
            self._special = [field for field in self.fields if field[0] in _SPECIAL]
        return True

    def _have_parsed(self, head: bytes) -> None:
        self.fields = []
        self._special = []
        parser = self._parser or httptools.HttpRequestParser(self)
        self._parser = None
        if self._parse(parser, head) and not self._special:
            # After a body, which it will not see, an upgrade or an error it cannot go on.
            self._parser = parser
        if len(self.fields) != head.count(b"\r\n") - 2:
            raise BadRequest("the header section has an empty line inside")
        if b" \r\n" in head or b"\t\r\n" in head:
            # White space behind a value is no part of it, RFC 9112 section 5.1; the parser drops only what is before.
            self.fields = [(name, value.rstrip(b" \t")) for name, value in self.fields]
        if self.target[0] != 0x2F:
            self._take_apart()

    def _repeat(self) -> None:
        """Read a head whose header section is that of the last plain GET."""
        self.is_http_11 = self.is_plain = True
        self.keep_alive = self.section.keep_alive
        self.fields = self.section.fields
        self.length = None
        self.chunked = self.expects_continue = False
        self.upgrade = b""

    def check_partial(self, head: bytes | bytearray) -> None:
        """Raise what is certain already about the beginning of a head: that it is longer than allowed."""
        self.method = self.target = b""
        space = head.find(b" ", 0, _MAX_METHOD_BYTES + 1)
        if space < 0:
            if len(head) > _MAX_METHOD_BYTES:
                raise BadRequest("the request does not begin with a method")
            return
        line_end = head.find(b"\r\n")
        if line_end < 0:
            target_end = head.find(b" ", space + 1)
            length = (len(head) if target_end < 0 else target_end) - space - 1
            if length > self._max_target_bytes:
                raise TargetTooLong(f"a target of more than {self._max_target_bytes} bytes")
            if target_end >= 0 and len(head) - target_end > 16:
                raise BadRequest("the request line does not end after the version")
        elif len(head) - line_end - 2 > self._max_header_bytes + 1:
            # One byte of the empty line may follow a section that is exactly as long as allowed.
            raise HeadersTooLarge(f"a header section of more than {self._max_header_bytes} bytes")

    def _parse(self, parser: httptools.HttpRequestParser, head: bytes) -> bool:
        """Have the parser judge the head and call ``on_header``; whether it can go on with the next head."""
        if self.method == b"CONNECT":
            raise MethodNotImplemented("CONNECT")
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            return False
        except httptools.HttpParserInvalidMethodError as error:
            if len(self.method) <= _MAX_METHOD_BYTES and _METHOD.fullmatch(self.method):
                raise MethodNotImplemented(f"method {self.method.decode('ascii')}") from error
            raise BadRequest("the method is not a token") from error
        except httptools.HttpParserError as error:
            raise BadRequest(str(error)) from error
        return True

    def _take_apart(self) -> None:
        """Absolute form: the authority takes the place of the Host field, RFC 9112 section 3.2.2."""
        if self.target == b"*":
            if self.method != b"OPTIONS":
                raise BadRequest("only OPTIONS has the target *")
            return
        match = _ABSOLUTE.fullmatch(self.target)
        if match is None:
            raise BadRequest("the target is neither a path nor an http URL")
        authority, rest = match[1], match[2] or b""
        if not rest:
            rest = b"*" if self.method == b"OPTIONS" else b"/"
        self.target = rest if rest[0] != 0x3F else b"/" + rest
        for index, field in enumerate(self.fields):
            if field[0] == b"host":
                # A second Host stays, and is refused as such.
                self.fields[index] = (b"host", authority)
                return
        if not self.is_http_11:
            self.fields.insert(0, (b"host", authority))

    def _judge(self, special: Fields) -> None:
        codings: list[bytes] = []
        options: list[bytes] = []
        upgrades: list[bytes] = []
        for name, value in special:
            value = value.strip(b" \t")
            if name == b"content-length":
                self._judge_length(value)
            elif name == b"transfer-encoding":
                codings.append(value)
            elif name == b"connection":
                options += [option.strip() for option in value.lower().split(b",")]
            elif name == b"upgrade":
                upgrades.append(value.lower())
            else:
                self.expects_continue = self.is_http_11 and value.lower() == b"100-continue"
        if options:
            self.keep_alive = b"close" not in options and (self.is_http_11 or b"keep-alive" in options)
            if b"upgrade" in options and self.is_http_11:
                # Without the option the field is not meant for this connection, RFC 9110 section 7.8.
                self.upgrade = b",".join(upgrades)
        if codings:
            self._judge_codings(codings)

    def _judge_length(self, value: bytes) -> None:
        if self.length is not None:
            raise BadRequest("more than one Content-Length")
        if not value.isdigit():
            raise BadRequest("Content-Length is not a number")
        digits = value.lstrip(b"0") or b"0"
        # int() itself gives up on thousands of digits, with an error that is no answer to a request.
        if len(digits) > _MAX_LENGTH_DIGITS or int(digits) > MAX_LENGTH:
            raise BadRequest("Content-Length is too large")
        self.length = int(digits)
        if value.startswith(b"0") and value != b"0":
            # Whoever reads it after this finds one spelling.
            self.fields[self.fields.index((b"content-length", value))] = (b"content-length", b"%d" % self.length)

    def _judge_codings(self, codings: list[bytes]) -> None:
        """RFC 9112 section 6.1: chunked, once, last, in HTTP/1.1, and without Content-Length."""
        if self.length is not None:
            raise BadRequest("both Content-Length and Transfer-Encoding")
        if not self.is_http_11:
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
        if len(codings) == 1 and codings[0].lower() == b"chunked":
            self.chunked = True
            return
        applied = [name.strip().lower() for value in codings for name in value.split(b",")]
        if b"chunked" not in applied[:-1] and _CODINGS.fullmatch(b",".join(codings)):
            raise MethodNotImplemented("an unknown transfer coding", detail="The transfer coding is not supported.")
        raise BadRequest("Transfer-Encoding is not exactly chunked")
