from __future__ import annotations

import httpx
import pytest

from gateway.http.fields import Fields
from gateway.upstream.messages import InboundResponse, OutboundRequest, RequestStream, WholeBody
from tests.upstream.http1_client import URL, Pieces

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "fields", "framing", "content"),
    [
        (None, [], [], b""),
        (None, [(b"content-length", b"0")], [(b"content-length", b"0")], b""),
        (b"abc", [], [(b"content-length", b"3")], b"abc"),
        (b"abc", [(b"content-length", b"3")], [(b"content-length", b"3")], b"abc"),
        (Pieces(b"a", b"b", length=2), [], [(b"content-length", b"2")], b"ab"),
        (Pieces(b"a", b"b"), [], [(b"transfer-encoding", b"chunked")], b"ab"),
    ],
)
async def test_a_request_is_what_other_transports_expect(
    body: bytes | RequestStream | None, fields: Fields, framing: Fields, content: bytes
) -> None:
    request = OutboundRequest(b"POST", URL, [(b"host", b"a"), *fields], body, {"target": b"/x"})
    assert isinstance(request, httpx.Request)
    assert (request.method, request.url, request.extensions) == ("POST", URL, {"target": b"/x"})
    assert request.headers.raw == [(b"host", b"a"), *framing]
    assert isinstance(request.stream, httpx.AsyncByteStream)
    assert await request.aread() == content
    assert request.raw_fields == [(b"host", b"a"), *fields]


def test_what_is_made_on_first_access_is_made_once_and_can_be_set() -> None:
    request = OutboundRequest(b"GET", URL, [(b"a", b"b")])
    assert request.headers is request.headers
    request.headers["x"] = "y"
    assert request.headers["x"] == "y"
    stream = httpx.ByteStream(b"x")
    request.stream = stream
    assert request.stream is stream
    assert not hasattr(request, "_content")
    with pytest.raises(AttributeError):
        _ = request.nothing


def test_no_two_requests_share_what_can_be_changed() -> None:
    first, second = OutboundRequest(b"GET", URL, []), OutboundRequest(b"GET", URL, [])
    first.extensions["x"] = 1
    assert second.extensions == {}
    one, other = InboundResponse(200, []), InboundResponse(200, [])
    one.extensions["x"] = 1
    one.history.append(other)
    assert "x" not in other.extensions
    assert other.history == []


async def test_a_response_is_what_users_of_httpx_expect() -> None:
    fields = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-type", b"text/plain")]
    response = InboundResponse(201, fields, whole=b"abc", reason=b"Made", raw_http_version=b"HTTP/1.0")
    assert isinstance(response, httpx.Response)
    assert (response.status_code, response.reason_phrase, response.http_version) == (201, "Made", "HTTP/1.0")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (response.is_success, response.is_closed, response.next_request) == (True, False, None)
    assert await response.aread() == b"abc"
    assert response.text == "abc"
    assert response.is_closed
    assert repr(response) == "<Response [201 Made]>"
    with pytest.raises(AttributeError):
        _ = response.nothing


async def test_a_coded_response_is_decoded_by_httpx_only() -> None:
    coded = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KLJ\x06\x00\xc2A$5\x03\x00\x00\x00"
    response = InboundResponse(200, [(b"content-encoding", b"gzip")], whole=coded)
    assert response.whole == coded
    assert await response.aread() == b"abc"


async def test_a_whole_body_is_one_piece_or_none() -> None:
    assert [piece async for piece in WholeBody(b"abc")] == [b"abc"]
    assert [piece async for piece in WholeBody(b"")] == []
    body = WholeBody(b"abc")
    await body.aclose()
    assert [piece async for piece in body] == []
    assert [piece async for piece in InboundResponse(200, [], whole=b"x").stream] == [b"x"]
    assert [piece async for piece in InboundResponse(204, []).stream] == []


def test_a_stream_given_to_a_response_is_its_stream() -> None:
    body = WholeBody(b"abc")
    assert InboundResponse(200, [], body).stream is body
