"""Raw requests that two parsers could read differently, and what must become of each.

A row names the attack. ``answers`` are the statuses that the client gets, in order; ``forwards`` the targets of the
requests that the upstream gets, in order, and of nothing else; ``end`` says what becomes of the connection.
``/smuggled`` is the request that an attacker would like the upstream to see: no row forwards it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

End = Literal["open", "closed", "waiting"]
"""``waiting``: the gateway waits for the rest of a request, of which the upstream has seen nothing complete."""


@dataclass(frozen=True)
class Row:
    name: str
    raw: bytes
    answers: tuple[int, ...]
    forwards: tuple[bytes, ...]
    end: End


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"


def head(*fields: bytes, line: bytes = b"POST /a HTTP/1.1") -> bytes:
    """A request head with a good Host."""
    return b"\r\n".join([line, b"Host: a", *fields, b"", b""])


def get(target: bytes = b"/a", *fields: bytes) -> bytes:
    return head(*fields, line=b"GET " + target + b" HTTP/1.1")


def posted(framing: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    """A POST whose framing is ``framing``, with ``body`` behind it."""
    return head(framing, *fields) + body


def chunked(body: bytes, *fields: bytes) -> bytes:
    return head(b"Transfer-Encoding: chunked", *fields) + body


def refused(status: int, rows: dict[str, bytes]) -> Iterable[Row]:
    """Answered by the gateway itself with ``status``; the connection ends, the upstream hears nothing."""
    return [Row(name, raw, (status,), (), "closed") for name, raw in rows.items()]


def accepted(rows: Mapping[str, tuple[bytes, tuple[bytes, ...]]], end: End = "open") -> Iterable[Row]:
    """Forwarded with these targets, each answered with 200."""
    return [Row(name, raw, (200,) * len(targets), targets, end) for name, (raw, targets) in rows.items()]


CHUNK = b"3\r\nabc\r\n0\r\n\r\n"
BOTH_ENDS = b"0\r\n\r\n" + SMUGGLED

LENGTH_AND_CODING = {
    "CL.TE: length, then chunked": head(b"Content-Length: 44", b"Transfer-Encoding: chunked") + BOTH_ENDS,
    "TE.CL: chunked, then length": head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + BOTH_ENDS,
    "CL.TE with length 0": head(b"Content-Length: 0", b"Transfer-Encoding: chunked") + BOTH_ENDS,
    "TE.CL in a GET": get(b"/a", b"Transfer-Encoding: chunked", b"Content-Length: 5") + BOTH_ENDS,
    "CL.TE with an unknown coding": head(b"Content-Length: 5", b"Transfer-Encoding: gzip") + BOTH_ENDS,
    "CL.TE with identity": head(b"Content-Length: 5", b"Transfer-Encoding: identity") + BOTH_ENDS,
    "CL.TE hidden behind Connection": head(
        b"Connection: Transfer-Encoding", b"Content-Length: 5", b"Transfer-Encoding: chunked"
    )
    + BOTH_ENDS,
    "TE.CL with the length named in Connection": head(
        b"Connection: Content-Length", b"Transfer-Encoding: chunked", b"Content-Length: 5"
    )
    + BOTH_ENDS,
    "CL.TE in HTTP/1.0": head(b"Content-Length: 5", b"Transfer-Encoding: chunked", line=b"POST /a HTTP/1.0")
    + BOTH_ENDS,
    "CL.TE with both in upper case": head(b"CONTENT-LENGTH: 5", b"TRANSFER-ENCODING: CHUNKED") + BOTH_ENDS,
    "CL.TE in a WebSocket handshake": get(
        b"/a", b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5", b"Transfer-Encoding: chunked"
    )
    + BOTH_ENDS,
}

LENGTHS = {
    "CL.CL: two lengths that differ": head(b"Content-Length: 0", b"Content-Length: 44") + SMUGGLED,
    "CL.CL: two lengths that agree": head(b"Content-Length: 3", b"Content-Length: 3") + b"abc",
    "CL.CL: in different case": head(b"content-length: 3", b"CONTENT-LENGTH: 4") + b"abc",
    "CL.CL: the second is empty": head(b"Content-Length: 3", b"Content-Length:") + b"abc",
    "CL.CL: apart": head(b"Content-Length: 0", b"X: 1", b"Content-Length: 44") + SMUGGLED,
    "length as a list": posted(b"Content-Length: 3, 3", b"abc"),
    "length as a list without a space": posted(b"Content-Length: 0,44", SMUGGLED),
    "length with a plus": posted(b"Content-Length: +3", b"abc"),
    "length with a minus": posted(b"Content-Length: -3", b"abc"),
    "length minus zero": posted(b"Content-Length: -0", SMUGGLED),
    "length in hexadecimal": posted(b"Content-Length: 0x3", b"abc"),
    "length in hexadecimal without 0x": posted(b"Content-Length: a", b"0123456789"),
    "length with an underscore": posted(b"Content-Length: 1_0", b"0123456789"),
    "length with a space inside": posted(b"Content-Length: 4 4", SMUGGLED),
    "length with a tab inside": posted(b"Content-Length: 4\t4", SMUGGLED),
    "length with a vertical tab": posted(b"Content-Length: \x0b3", b"abc"),
    "length with a form feed": posted(b"Content-Length: 3\x0c", b"abc"),
    "length with a NUL": posted(b"Content-Length: 3\x004", SMUGGLED),
    "length as a fraction": posted(b"Content-Length: 3.0", b"abc"),
    "length with an exponent": posted(b"Content-Length: 3e0", b"abc"),
    "length in quotes": posted(b'Content-Length: "3"', b"abc"),
    "length with a semicolon": posted(b"Content-Length: 3;a=b", b"abc"),
    "length in Arabic digits": posted("Content-Length: \u0663".encode(), b"abc"),
    "length in full-width digits": posted("Content-Length: \uff13".encode(), b"abc"),
    "length with a superscript in Latin-1": posted(b"Content-Length: \xb3", b"abc"),
    "length with a non-breaking space": posted(b"Content-Length: \xa03", b"abc"),
    "length that is empty": posted(b"Content-Length:", SMUGGLED),
    "length that is a space": posted(b"Content-Length:  ", SMUGGLED),
    "length of 2^63": posted(b"Content-Length: 9223372036854775808", SMUGGLED),
    "length of 2^64": posted(b"Content-Length: 18446744073709551616", SMUGGLED),
    "length of 2^64 + 3": posted(b"Content-Length: 18446744073709551619", b"abc"),
    "length of 100 digits": posted(b"Content-Length: " + b"9" * 100, b"abc"),
    "length of 5000 digits": posted(b"Content-Length: " + b"9" * 5000, b"abc"),
}

CODINGS_400 = {
    "TE.TE: chunked twice in one field": head(b"Transfer-Encoding: chunked, chunked") + CHUNK,
    "TE.TE: chunked in two fields": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + CHUNK,
    "TE.TE: chunked, then identity": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + CHUNK,
    "TE.TE: identity, then chunked in another case": head(b"Transfer-Encoding: identity", b"transfer-encoding: x")
    + BOTH_ENDS,
    "TE.TE: chunked, then garbage": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: cow") + BOTH_ENDS,
    "TE: chunked is not last": head(b"Transfer-Encoding: chunked, gzip") + CHUNK,
    "TE: identity": head(b"Transfer-Encoding: identity") + SMUGGLED,
    "TE: xchunked": head(b"Transfer-Encoding: xchunked") + CHUNK,
    "TE: chunkedx": head(b"Transfer-Encoding: chunkedx") + CHUNK,
    "TE: chunk": head(b"Transfer-Encoding: chunk") + CHUNK,
    "TE: chunked with a parameter": head(b"Transfer-Encoding: chunked;q=1") + CHUNK,
    "TE: chunked in double quotes": head(b'Transfer-Encoding: "chunked"') + CHUNK,
    "TE: chunked in single quotes": head(b"Transfer-Encoding: 'chunked'") + CHUNK,
    "TE: chunked after a vertical tab": head(b"Transfer-Encoding: \x0bchunked") + CHUNK,
    "TE: chunked before a form feed": head(b"Transfer-Encoding: chunked\x0c") + CHUNK,
    "TE: chunked before a NUL": head(b"Transfer-Encoding: chunked\x00") + CHUNK,
    "TE: chunked after a bare CR": head(b"Transfer-Encoding: \rchunked") + CHUNK,
    "TE: chunked after a bare LF": head(b"Transfer-Encoding:\nchunked") + CHUNK,
    "TE: chunked after a non-breaking space": head(b"Transfer-Encoding: \xa0chunked") + CHUNK,
    "TE: chunked with a long s": head("Transfer-Encoding: chun\u212aed".encode()) + CHUNK,
    "TE: empty": head(b"Transfer-Encoding:") + SMUGGLED,
    "TE: a comma": head(b"Transfer-Encoding: ,") + CHUNK,
    "TE: a comma before chunked": head(b"Transfer-Encoding: ,chunked") + CHUNK,
    "TE: a comma behind chunked": head(b"Transfer-Encoding: chunked,") + CHUNK,
    "TE: two words": head(b"Transfer-Encoding: chunked identity") + CHUNK,
    "TE: folded": head(b"Transfer-Encoding:", b" chunked") + CHUNK,
    "TE: folded with a tab": head(b"Transfer-Encoding:", b"\tchunked") + CHUNK,
    "TE: folded in the middle": head(b"Transfer-Encoding: chun", b" ked") + CHUNK,
    "TE: a space before the colon": head(b"Transfer-Encoding : chunked") + BOTH_ENDS,
    "TE: a tab before the colon": head(b"Transfer-Encoding\t: chunked") + BOTH_ENDS,
    "TE: a space before the name": head(b" Transfer-Encoding: chunked") + BOTH_ENDS,
    "TE: a NUL in the name": head(b"Transfer\x00-Encoding: chunked") + BOTH_ENDS,
    "TE: a CR before the name": head(b"X: a\rTransfer-Encoding: chunked") + BOTH_ENDS,
    "TE: an LF before the name": head(b"X: a\nTransfer-Encoding: chunked") + BOTH_ENDS,
    "TE: in HTTP/1.0": head(b"Transfer-Encoding: chunked", line=b"POST /a HTTP/1.0") + CHUNK,
    "TE: in HTTP/1.0 with keep-alive": head(
        b"Transfer-Encoding: chunked", b"Connection: keep-alive", line=b"POST /a HTTP/1.0"
    )
    + BOTH_ENDS,
}

CODINGS_501 = {
    "TE: gzip before chunked": head(b"Transfer-Encoding: gzip, chunked") + CHUNK,
    "TE: gzip and chunked in two fields": head(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked") + CHUNK,
    "TE.TE: garbage, then chunked": head(b"Transfer-Encoding: cow", b"Transfer-Encoding: chunked") + BOTH_ENDS,
    "TE.TE: identity, then chunked": head(b"Transfer-Encoding: identity, chunked") + CHUNK,
}

CHUNKS = {
    "chunk without a size": chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a plus": chunked(b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a minus": chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size of minus zero": chunked(b"-0\r\n\r\n" + SMUGGLED),
    "chunk size with 0x": chunked(b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with an underscore": chunked(b"0_3\r\nabc\r\n0\r\n\r\n"),
    "chunk size after a space": chunked(b" 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size before a space": chunked(b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size before a tab": chunked(b"3\t\r\nabc\r\n0\r\n\r\n"),
    "chunk size before a space and an extension": chunked(b"3 ;a=b\r\nabc\r\n0\r\n\r\n"),
    "chunk size that is no number": chunked(b"g\r\nabc\r\n0\r\n\r\n"),
    "chunk size with digits and letters": chunked(b"3g\r\nabc\r\n0\r\n\r\n"),
    "chunk size in full-width digits": chunked("\uff13\r\nabc\r\n0\r\n\r\n".encode()),
    "chunk size with a NUL": chunked(b"3\x00\r\nabc\r\n0\r\n\r\n"),
    "chunk size of 17 digits": chunked(b"00000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size of 2^63": chunked(b"8000000000000000\r\nabc"),
    "chunk size of 2^64 + 3": chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size of 2^32 + 3 in 17 digits": chunked(b"00000000100000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size line that ends in LF": chunked(b"3\nabc\r\n0\r\n\r\n"),
    "chunk size line that ends in CR": chunked(b"3\rabc\r\n0\r\n\r\n"),
    "chunk size line that ends in CR CR LF": chunked(b"3\r\r\nabc\r\n0\r\n\r\n"),
    "chunk size line that ends in LF CR": chunked(b"3\n\rabc\r\n0\r\n\r\n"),
    "chunk data that ends in LF": chunked(b"3\r\nabc\n0\r\n\r\n"),
    "chunk data that ends in CR": chunked(b"3\r\nabc\r0\r\n\r\n"),
    "chunk data that ends in nothing": chunked(b"3\r\nabc0\r\n\r\n"),
    "chunk data that ends in two other bytes": chunked(b"3\r\nabcXX0\r\n\r\n" + SMUGGLED),
    "chunk data longer than its size": chunked(b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk data shorter than its size": chunked(b"5\r\nabc\r\n0\r\n\r\n"),
    "chunk extension with an LF": chunked(b"3;a\nabc\r\n0\r\n\r\n"),
    "chunk extension with an LF that hides a chunk (TERM.EXT)": chunked(b"2;\nxx\r\n22\r\n0\r\n\r\n" + SMUGGLED),
    "chunk extension with a CR": chunked(b"3;a\r;b\r\nabc\r\n0\r\n\r\n"),
    "chunk extension with a NUL": chunked(b"3;a=\x00\r\nabc\r\n0\r\n\r\n"),
    "chunk extension that is too long": chunked(b"3;" + b"x" * 4096 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk extensions that are too long together": chunked((b"1;" + b"x" * 4000 + b"\r\na\r\n") * 17),
    "last chunk that ends in LF": chunked(b"0\n\n" + SMUGGLED),
    "last chunk, then an LF": chunked(b"0\r\n\n" + SMUGGLED),
    "trailer with a bare LF": chunked(b"0\r\nA: b\nC: d\r\n\r\n"),
    "trailer with a bare CR": chunked(b"0\r\nA: b\rC: d\r\n\r\n"),
    "trailer that is folded": chunked(b"0\r\nA: b\r\n c\r\n\r\n"),
    "trailer without a colon": chunked(b"0\r\nA\r\n\r\n"),
    "trailer with a space before the colon": chunked(b"0\r\nA : b\r\n\r\n"),
    "trailer with a NUL": chunked(b"0\r\nA: \x00\r\n\r\n"),
    "trailer that is a request line": chunked(b"0\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"),
    "trailers that are too long": chunked(b"0\r\n" + b"A: 1234567890\r\n" * 4000 + b"\r\n"),
}

LINES = {
    "line: HTTP/0.9 without a version": b"GET /smuggled\r\n\r\n",
    "line: HTTP/0.9": get().replace(b"HTTP/1.1", b"HTTP/0.9"),
    "line: HTTP/1.2": get().replace(b"HTTP/1.1", b"HTTP/1.2"),
    "line: HTTP/1.10": get().replace(b"HTTP/1.1", b"HTTP/1.10"),
    "line: HTTP/1": get().replace(b"HTTP/1.1", b"HTTP/1"),
    "line: HTTP/1.": get().replace(b"HTTP/1.1", b"HTTP/1."),
    "line: HTTP/01.1": get().replace(b"HTTP/1.1", b"HTTP/01.1"),
    "line: HTTP/1,1": get().replace(b"HTTP/1.1", b"HTTP/1,1"),
    "line: HTTP/2.0": get().replace(b"HTTP/1.1", b"HTTP/2.0"),
    "line: http in lower case": get().replace(b"HTTP/1.1", b"http/1.1"),
    "line: another protocol": get().replace(b"HTTP/1.1", b"ICAP/1.0"),
    "line: the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "line: two spaces before the target": b"GET  /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: two spaces before the version": b"GET /a  HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a space at its end": b"GET /a HTTP/1.1 \r\nHost: a\r\n\r\n",
    "line: a space at its beginning": b" GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a tab before the target": b"GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a tab before the version": b"GET /a\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a space in the target": b"GET /a HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a vertical tab before the version": b"GET /a\x0bHTTP/1.1\r\nHost: a\r\n\r\n",
    "line: ends in LF": b"GET /a HTTP/1.1\nHost: a\r\n\r\n",
    "line: ends in CR": b"GET /a HTTP/1.1\rHost: a\r\n\r\n",
    "line: ends in CR CR LF": b"GET /a HTTP/1.1\r\r\nHost: a\r\n\r\n",
    "line: a bare CR in the target": b"GET /a\r HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a bare LF in the target": b"GET /a\n HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a NUL in the target": b"GET /a\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a NUL in the method": b"GE\x00T /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a method with a colon": b"GET: /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a method with a slash": b"G/T /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: a method of 40 bytes": b"X" * 40 + b" /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: no method": b" /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: no target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "line: only the method": b"GET\r\nHost: a\r\n\r\n",
    "line: a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "line: a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60,
    "line: an SSH greeting": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 (client)\r\n\r\n",
    "line: bare LFs throughout": b"GET /smuggled HTTP/1.1\nHost: a\n\n\r\n\r\n",
}

FIELDS = {
    "field: obs-fold": get(b"/a", b"X: a", b" b"),
    "field: obs-fold with a tab": get(b"/a", b"X: a", b"\tb"),
    "field: obs-fold that hides a length": head(b"X: a", b" Content-Length: 44") + SMUGGLED,
    "field: folded first line": b"GET /a HTTP/1.1\r\n Host: a\r\n\r\n",
    "field: a space before the colon": get(b"/a", b"X : a"),
    "field: a tab before the colon": get(b"/a", b"X\t: a"),
    "field: a length with a space before the colon": head(b"Content-Length : 44") + SMUGGLED,
    "field: a length with a vertical tab before the colon": head(b"Content-Length\x0b: 44") + SMUGGLED,
    "field: a Host with a space before the colon": b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
    "field: a space in the name": get(b"/a", b"X Y: a"),
    "field: no colon": get(b"/a", b"X"),
    "field: no name": get(b"/a", b": a"),
    "field: a NUL in the name": get(b"/a", b"X\x00: a"),
    "field: a NUL in the value": get(b"/a", b"X: a\x00b"),
    "field: a DEL in the value": get(b"/a", b"X: a\x7fb"),
    "field: an escape in the value": get(b"/a", b"X: a\x1bb"),
    "field: a vertical tab in the value": get(b"/a", b"X: a\x0bb"),
    "field: obs-text in the name": get(b"/a", b"X\xe9: a"),
    "field: brackets in the name": get(b"/a", b"X[0]: a"),
    "field: a quote in the name": get(b"/a", b'"X": a'),
    "field: a bare CR in the value": get(b"/a", b"X: a\rb"),
    "field: a bare CR that hides a length": head(b"X: a\rContent-Length: 44") + SMUGGLED,
    "field: a bare LF that hides a length": head(b"X: a\nContent-Length: 44") + SMUGGLED,
    "field: a bare LF that hides a coding": head(b"X: a\nTransfer-Encoding: chunked") + BOTH_ENDS,
    "field: a CR before the CRLF": get(b"/a", b"X: a\r"),
    "field: an LF before the CRLF": get(b"/a", b"X: a\n"),
    "field: LF LF ends the head": b"GET /a HTTP/1.1\r\nHost: a\n\n" + SMUGGLED,
    "field: LF CRLF ends the head": b"GET /a HTTP/1.1\r\nHost: a\n\r\n" + SMUGGLED,
    "field: CR CR ends the head": b"GET /a HTTP/1.1\r\nHost: a\r\r" + SMUGGLED,
    "field: LF CR LF CR ends the head": b"GET /a HTTP/1.1\r\nHost: a\n\r\n\r" + SMUGGLED,
}

HOSTS = {
    "host: none": b"GET /a HTTP/1.1\r\n\r\n",
    "host: two": b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "host: two that agree": b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host: two in different case": b"GET /a HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
    "host: empty": b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    "host: a list": b"GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host: a space inside": b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host: a path behind it": b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host: credentials before it": b"GET /a HTTP/1.1\r\nHost: u:p@a\r\n\r\n",
    "host: an at sign before it": b"GET /a HTTP/1.1\r\nHost: b@a\r\n\r\n",
    "host: a query behind it": b"GET /a HTTP/1.1\r\nHost: a?b\r\n\r\n",
    "host: a fragment behind it": b"GET /a HTTP/1.1\r\nHost: a#b\r\n\r\n",
    "host: a backslash": b"GET /a HTTP/1.1\r\nHost: a\\b\r\n\r\n",
    "host: a port that is no number": b"GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "host: a port beyond 65535": b"GET /a HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    "host: two ports": b"GET /a HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
    "host: a bad IPv6 address": b"GET /a HTTP/1.1\r\nHost: [::g]\r\n\r\n",
    "host: an open bracket": b"GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "host: obs-text": b"GET /a HTTP/1.1\r\nHost: \xe9\r\n\r\n",
    "host: an absolute target beside two": b"GET http://c/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "host: an absolute target without one": b"GET http://c/a HTTP/1.1\r\n\r\n",
}

TARGETS = {
    "target: a parent segment": get(b"/a/../smuggled"),
    "target: a parent segment, encoded": get(b"/a/%2e%2e/smuggled"),
    "target: a parent segment, half encoded": get(b"/a/.%2E/smuggled"),
    "target: a parent segment with a parameter": get(b"/a/..;x/smuggled"),
    "target: a parent segment behind an encoded slash": get(b"/a%2f..%2fsmuggled"),
    "target: a parent segment behind an encoded backslash": get(b"/a%5c..%5csmuggled"),
    "target: a dot segment": get(b"/./a"),
    "target: a parent segment at the end": get(b"/a/.."),
    "target: a backslash": get(b"/a\\..\\smuggled"),
    "target: a fragment": get(b"/a#b"),
    "target: an encoded NUL": get(b"/a%00"),
    "target: a broken escape": get(b"/a%"),
    "target: an escape of one digit": get(b"/a%2"),
    "target: an escape that is none": get(b"/a%zz"),
    "target: an escape in the way of IIS": get(b"/a%u002e"),
    "target: obs-text": get(b"/\xe9"),
    "target: obs-text in the query": get(b"/a?\xe9"),
    "target: a control byte": get(b"/\x01"),
    "target: a DEL": get(b"/\x7f"),
    "target: a word": get(b"a"),
    "target: an asterisk for GET": get(b"*"),
    "target: authority form for GET": get(b"b:80"),
    "target: absolute with another scheme": get(b"ftp://b/a"),
    "target: absolute with a file scheme": get(b"file:///a"),
    "target: absolute with credentials": get(b"http://u:p@b/a"),
    "target: absolute without an authority": get(b"http:///a"),
    "target: absolute without slashes": get(b"http:a"),
    "target: absolute with a backslash": get(b"http://b\\a"),
    "target: absolute with a fragment": get(b"http://b/a#c"),
    "target: absolute with a port that is no number": get(b"http://b:x/a"),
    "target: absolute with a parent segment": get(b"http://b/a/../smuggled"),
}

OTHERS = [
    *refused(
        501,
        {
            "method: CONNECT": b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n" + SMUGGLED,
            "method: CONNECT with a path": b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "method: in lower case": get().replace(b"GET", b"get"),
            "method: unknown": get().replace(b"GET", b"BREW"),
            "method: unknown, with a body that is a request": posted(b"Content-Length: 44", SMUGGLED).replace(
                b"POST", b"BREW"
            ),
            "method: a known one with a suffix": get().replace(b"GET", b"GETX"),
        },
    ),
    *refused(414, {"size: a target of 8193 bytes": get(b"/" + b"a" * 8192)}),
    *refused(
        431,
        {
            "size: 101 fields": get(b"/a", *[b"X: a"] * 100),
            "size: one field of 33 KiB": get(b"/a", b"X: " + b"a" * 33 * 1024),
            "size: fields without end": get(b"/a", *[b"X: " + b"a" * 1000] * 50),
        },
    ),
    *refused(
        417,
        {
            "expect: something unknown": posted(b"Content-Length: 3", b"", b"Expect: 200-ok"),
        },
    ),
    Row("method: TRACE", get().replace(b"GET", b"TRACE"), (405,), (), "open"),
    Row(
        "upgrade: h2c is answered without it",
        get(b"/a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        (200,),
        (b"/a",),
        "open",
    ),
]

ACCEPTED = {
    "plain": (get(), (b"/a",)),
    "an empty line before the request": (b"\r\n" + get(), (b"/a",)),
    "five empty lines before the request": (b"\r\n" * 5 + get(), (b"/a",)),
    "an empty line between two requests": (get(b"/1") + b"\r\n" + get(b"/2"), (b"/1", b"/2")),
    "an empty value": (get(b"/a", b"X:"), (b"/a",)),
    "spaces and tabs around a value": (get(b"/a", b"X: \t a \t "), (b"/a",)),
    "obs-text in a value": (get(b"/a", b"X: \xe9"), (b"/a",)),
    "a Host with spaces around it": (b"GET /a HTTP/1.1\r\nHost: \t a \t \r\n\r\n", (b"/a",)),
    "a length of 0": (posted(b"Content-Length: 0"), (b"/a",)),
    "a length with leading zeros": (posted(b"Content-Length: 003", b"abc"), (b"/a",)),
    "a length with 5000 leading zeros": (posted(b"Content-Length: " + b"0" * 5000 + b"3", b"abc"), (b"/a",)),
    "a length with spaces around it": (posted(b"Content-Length: \t3 ", b"abc"), (b"/a",)),
    "a body that is a request": (posted(b"Content-Length: %d" % len(SMUGGLED), SMUGGLED), (b"/a",)),
    "a GET with a body that is a request": (get(b"/a", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED, (b"/a",)),
    "a chunk that is a request": (chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), (b"/a",)),
    "a GET with a chunk that is a request": (
        get(b"/a", b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        (b"/a",),
    ),
    "chunked in mixed case": (posted(b"tRaNsFeR-eNcOdInG: cHuNkEd", CHUNK), (b"/a",)),
    "chunked with spaces around it": (posted(b"Transfer-Encoding: \t chunked ", CHUNK), (b"/a",)),
    "a chunk size with leading zeros": (chunked(b"0003\r\nabc\r\n000\r\n\r\n"), (b"/a",)),
    "a chunk size in capitals": (chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), (b"/a",)),
    "a chunk extension": (chunked(b'3;a=b;c="d;e"\r\nabc\r\n0;f\r\n\r\n'), (b"/a",)),
    "a chunk extension that is a request line": (
        chunked(b"3;GET /smuggled HTTP/1.1\r\nabc\r\n0\r\n\r\n"),
        (b"/a",),
    ),
    "trailers that look like framing": (
        chunked(b"3\r\nabc\r\n0\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n"),
        (b"/a",),
    ),
    "a last chunk alone": (chunked(b"0\r\n\r\n"), (b"/a",)),
    "Connection names the framing": (
        posted(b"Content-Length: %d" % len(SMUGGLED), SMUGGLED, b"Connection: Content-Length"),
        (b"/a",),
    ),
    "Connection names the coding": (chunked(CHUNK, b"Connection: Transfer-Encoding"), (b"/a",)),
    "Connection names Host": (get(b"/a", b"Connection: Host"), (b"/a",)),
    "Content_Length with an underscore": (get(b"/a", b"Content_Length: 44"), (b"/a",)),
    "Transfer_Encoding with an underscore": (
        posted(b"Content-Length: 0", b"", b"Transfer_Encoding: chunked"),
        (b"/a",),
    ),
    "Content-Length without its hyphen": (get(b"/a", b"ContentLength: 44"), (b"/a",)),
    "X-HTTP-Method-Override stays a field": (get(b"/a", b"X-HTTP-Method-Override: POST"), (b"/a",)),
    "TE: trailers": (get(b"/a", b"TE: trailers", b"Connection: TE"), (b"/a",)),
    "TE: chunked is dropped": (get(b"/a", b"TE: chunked", b"Connection: TE"), (b"/a",)),
    "Trailer is dropped": (chunked(CHUNK, b"Trailer: Content-Length"), (b"/a",)),
    "httpoxy": (get(b"/a", b"Proxy: http://evil"), (b"/a",)),
    "Upgrade without Connection": (get(b"/a", b"Upgrade: websocket"), (b"/a",)),
    "a WebSocket handshake with a body": (
        get(b"/a", b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        (b"/a",),
    ),
    "a WebSocket handshake by POST": (
        posted(b"Content-Length: 3", b"abc", b"Connection: Upgrade", b"Upgrade: websocket"),
        (b"/a",),
    ),
    "h2c beside WebSocket": (get(b"/a", b"Connection: Upgrade", b"Upgrade: h2c, websocket"), (b"/a",)),
    "an encoded slash": (get(b"/a%2Fb"), (b"/a%2Fb",)),
    "an escape of an escape": (get(b"/a%252e%252e"), (b"/a%252e%252e",)),
    "two slashes": (get(b"//evil/a"), (b"//evil/a",)),
    "many slashes": (get(b"/a////b"), (b"/a////b",)),
    "three dots": (get(b"/..."), (b"/...",)),
    "an empty query": (get(b"/a?"), (b"/a?",)),
    "a question mark in the query": (get(b"/a?b?c"), (b"/a?b?c",)),
    "a query that is a URL": (get(b"/a?http://evil/%00"), (b"/a?http://evil/%00",)),
    "an absolute target": (get(b"http://b/a"), (b"/a",)),
    "an absolute target with https": (get(b"https://b/a?c"), (b"/a?c",)),
    "an absolute target in capitals": (get(b"HTTP://B/a"), (b"/a",)),
    "an absolute target without a path": (get(b"http://b"), (b"/",)),
    "an absolute target with a query only": (get(b"http://b?c"), (b"/?c",)),
    "OPTIONS with an asterisk": (get(b"*").replace(b"GET", b"OPTIONS"), (b"*",)),
    "two pipelined": (get(b"/1") + get(b"/2"), (b"/1", b"/2")),
    "ten pipelined": (b"".join(get(b"/%d" % n) for n in range(10)), tuple(b"/%d" % n for n in range(10))),
    "pipelined behind a body": (posted(b"Content-Length: 3", b"abc") + get(b"/2"), (b"/a", b"/2")),
    "pipelined behind chunks": (chunked(CHUNK) + get(b"/2"), (b"/a", b"/2")),
    "pipelined behind trailers": (chunked(b"0\r\nA: b\r\n\r\n") + get(b"/2"), (b"/a", b"/2")),
    "pipelined bodies of both kinds": (
        posted(b"Content-Length: 3", b"abc") + chunked(CHUNK) + posted(b"Content-Length: 0") + get(b"/4"),
        (b"/a", b"/a", b"/a", b"/4"),
    ),
    "pipelined behind a slow answer": (get(b"/slow") + get(b"/2"), (b"/slow", b"/2")),
    "pipelined behind HEAD": (get(b"/1").replace(b"GET", b"HEAD") + get(b"/2"), (b"/1", b"/2")),
    "HTTP/1.0 with keep-alive": (
        get(b"/1", b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        (b"/1",),
    ),
}

ENDING = {
    "Connection: close, then another request": (get(b"/1", b"Connection: close") + SMUGGLED, (b"/1",)),
    "Connection: Close among others": (get(b"/1", b"Connection: x, Close") + SMUGGLED, (b"/1",)),
    "Connection: keep-alive and close": (get(b"/1", b"Connection: keep-alive, close") + SMUGGLED, (b"/1",)),
    "HTTP/1.0, then another request": (get(b"/1").replace(b"HTTP/1.1", b"HTTP/1.0") + SMUGGLED, (b"/1",)),
    "HTTP/1.0 with a body": (posted(b"Content-Length: 3", b"abc").replace(b"1.1", b"1.0") + SMUGGLED, (b"/a",)),
    "HTTP/1.0 with an absolute target": (b"GET http://b/1 HTTP/1.0\r\n\r\n", (b"/1",)),
}

BEHIND_A_GOOD_ONE = {
    "pipelined: a body longer than its length": posted(b"Content-Length: 2", b"abc d e\r\n\r\n"),
    "pipelined: a length of 0 with a body": posted(b"Content-Length: 0", b"0\r\n\r\n"),
    "pipelined: a body without a length": head() + b"abc\r\n\r\n",
    "pipelined: chunks without a coding": head() + CHUNK,
    "pipelined: bad framing second": get(b"/a") + head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + CHUNK,
    "pipelined: bad host second": get(b"/a") + b"GET /smuggled HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "pipelined: a bare LF between": get(b"/a") + b"\n" + SMUGGLED,
    "pipelined: a bare CR between": get(b"/a") + b"\r" + SMUGGLED,
    "pipelined: a space between": get(b"/a") + b" " + SMUGGLED,
    "pipelined: a NUL between": get(b"/a") + b"\x00" + SMUGGLED,
    "pipelined: garbage behind the last chunk": chunked(CHUNK + b"x\x01") + SMUGGLED,
    "pipelined: an HTTP/2 preface second": get(b"/a") + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

WAITING = {
    "unfinished: nothing but an empty line": b"\r\n",
    "unfinished: half a request line": b"GET /smug",
    "unfinished: a head without its end": b"GET /smuggled HTTP/1.1\r\nHost: a\r\n",
    "unfinished: a head that ends in CRLF CR": b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r",
    "unfinished: a body that is too short": posted(b"Content-Length: 9", b"abc"),
    "unfinished: no body at all": posted(b"Content-Length: 9"),
    "unfinished: a chunk that is too short": chunked(b"5\r\nabc"),
    "unfinished: chunks without the last one": chunked(b"3\r\nabc\r\n"),
    "unfinished: a last chunk without its end": chunked(b"3\r\nabc\r\n0\r\n"),
    "unfinished: trailers without their end": chunked(b"0\r\nA: b\r\n"),
    "unfinished: a length of 2^63 - 1": posted(b"Content-Length: 9223372036854775807", SMUGGLED),
    "unfinished: a chunk of 2^63 - 1 bytes": chunked(b"7fffffffffffffff\r\n" + SMUGGLED),
}

CORPUS: list[Row] = [
    *refused(400, LENGTH_AND_CODING | LENGTHS | CODINGS_400),
    *refused(501, CODINGS_501),
    *refused(400, CHUNKS | LINES | FIELDS | HOSTS | TARGETS),
    *OTHERS,
    *accepted(ACCEPTED),
    *accepted(ENDING, "closed"),
    *[Row(name, raw, (200, 400), (b"/a",), "closed") for name, raw in BEHIND_A_GOOD_ONE.items()],
    *[Row(name, raw, (), (), "waiting") for name, raw in WAITING.items()],
]
