from __future__ import annotations

import httpx
import pytest

from gateway.errors import BadRequest
from gateway.http.fields import Fields
from gateway.upstream.http1_request import from_httpx, request_head, target_of
from gateway.upstream.messages import OutboundRequest, RequestStream
from tests.upstream.http1_client import URL, Pieces

HOST = (b"host", b"a.test")


@pytest.mark.parametrize(
    ("body", "fields", "expected"),
    [
        (None, [], b""),
        (None, [(b"content-length", b"0")], b"content-length: 0\r\n"),
        (b"", [(b"content-length", b"0")], b"content-length: 0\r\n"),
        (b"", [], b"content-length: 0\r\n"),
        (b"abc", [], b"content-length: 3\r\n"),
        (b"abc", [(b"content-length", b"3")], b"content-length: 3\r\n"),
        (Pieces(length=7), [(b"content-length", b"7")], b"content-length: 7\r\n"),
        (Pieces(length=7), [], b"content-length: 7\r\n"),
        (Pieces(), [], b"transfer-encoding: chunked\r\n"),
    ],
)
def test_a_request_is_framed_once(body: bytes | RequestStream | None, fields: Fields, expected: bytes) -> None:
    head = request_head(b"POST", b"/", [HOST, *fields], body)
    assert head == b"POST / HTTP/1.1\r\nhost: a.test\r\n" + expected + b"\r\n"


def test_target_and_fields_go_out_byte_for_byte() -> None:
    target = b"//a/%2F%2520;x/../+?q=%E9&q=&?"
    fields = [HOST, (b"x-a", b"\xe9\t b"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-empty", b"")]
    assert request_head(b"GET", target, fields, None) == (
        b"GET "
        + target
        + b" HTTP/1.1\r\nhost: a.test\r\nx-a: \xe9\t b\r\ncookie: a=1\r\ncookie: b=2\r\nx-empty: \r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "target", "fields", "body"),
    [
        pytest.param(b"GET /", b"/", [], None, id="space-in-method"),
        pytest.param(b"", b"/", [], None, id="no-method"),
        pytest.param(b"GET", b"", [], None, id="no-target"),
        pytest.param(b"GET", b"/a b", [], None, id="space-in-target"),
        pytest.param(b"GET", b"/a\tb", [], None, id="tab-in-target"),
        pytest.param(b"GET", b"/\r\nx: y", [], None, id="crlf-in-target"),
        pytest.param(b"GET", b"/\x00", [], None, id="nul-in-target"),
        pytest.param(b"GET", b"/", [(b"a", b"b\r\nc: d")], None, id="crlf-in-value"),
        pytest.param(b"GET", b"/", [(b"a", b"b\nc")], None, id="lf-in-value"),
        pytest.param(b"GET", b"/", [(b"a", b"b\rc")], None, id="cr-in-value"),
        pytest.param(b"GET", b"/", [(b"a", b"\x00")], None, id="nul-in-value"),
        pytest.param(b"GET", b"/", [(b"a", b"\x7f")], None, id="del-in-value"),
        pytest.param(b"GET", b"/", [(b"a\r\nb", b"c")], None, id="crlf-in-name"),
        pytest.param(b"GET", b"/", [(b"content-length", b"5")], None, id="length-without-body"),
        pytest.param(b"GET", b"/", [(b"transfer-encoding", b"chunked")], None, id="coding-without-body"),
        pytest.param(b"PUT", b"/", [(b"content-length", b"5")], b"abc", id="wrong-length"),
        pytest.param(b"PUT", b"/", [(b"content-length", b"3")] * 2, b"abc", id="length-twice"),
        pytest.param(b"PUT", b"/", [(b"content-length", b"0")] * 2, None, id="length-twice-without-body"),
        pytest.param(b"PUT", b"/", [(b"transfer-encoding", b"chunked")], b"abc", id="foreign-coding"),
        pytest.param(b"PUT", b"/", [(b"content-length", b"3")], Pieces(), id="length-of-unknown"),
        pytest.param(b"PUT", b"/", [(b"content-length", b"3")], Pieces(length=4), id="wrong-length-of-stream"),
    ],
)
def test_what_an_upstream_could_misread_is_not_sent(
    method: bytes, target: bytes, fields: Fields, body: bytes | RequestStream | None
) -> None:
    with pytest.raises(BadRequest):
        request_head(method, target, [HOST, *fields], body)


def test_the_target_is_that_of_the_extensions_or_of_the_url() -> None:
    url = httpx.URL("http://a.test/x?y")
    assert target_of(OutboundRequest(b"GET", url, [], None, {"target": b"/?"})) == b"/?"
    assert target_of(OutboundRequest(b"GET", url, [])) == b"/x?y"


def test_an_ordinary_httpx_request_is_taken_as_well() -> None:
    request = from_httpx(httpx.Request("GET", "http://a.test/x", headers={"X-A": "b"}))
    assert (request.raw_method, request.body) == (b"GET", None)
    assert request.raw_fields == [(b"host", b"a.test"), (b"x-a", b"b")]
    request = from_httpx(httpx.Request("POST", URL, content=b"abc"))
    assert request.body == b"abc"
    assert (b"content-length", b"3") in request.raw_fields

    async def pieces() -> object:
        yield b"a"

    request = from_httpx(httpx.Request("POST", URL, content=pieces()))  # type: ignore[arg-type]
    assert isinstance(request.body, RequestStream)
    assert request.body.length is None
    assert not any(name == b"transfer-encoding" for name, _ in request.raw_fields)
    with pytest.raises(TypeError):
        from_httpx(httpx.Request("POST", URL, content=iter([b"a"])))
