"""Answers of the gateway's own."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.http.problem import prefers_html, problem_response

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (None, False),
        (b"", False),
        (b"*/*", False),
        (BROWSER, True),
        (b"text/html", True),
        (b"TEXT/HTML; charset=utf-8", True),
        (b"text/*", True),
        (b"application/json, text/html", False),
        (b"application/problem+json;q=0.5, text/html;q=0.9", True),
        (b"text/html;q=0.5, application/json;q=0.9", False),
        (b"text/html;q=0.5, application/*;q=0.9", False),
        (b"text/html;q=0", False),
        (b"text/html;q=0, */*", False),
        (b"text/html;q=0.9, */*", False),
        (b"text/html, */*;q=0.1", True),
        (b"text/html;q=2", False),
        (b"text/html;level=1", False),
        (b"text/plain", False),
        (b"application/json", False),
        (b",, text", False),
        (b"text/html" + b", a/b" * 200, True),
    ],
)
def test_html_is_for_those_who_prefer_it_rfc9110_12_5_1(accept: bytes | None, html: bool) -> None:
    assert prefers_html(accept) is html
    _, fields, _ = problem_response(errors.NoEndpoint(), "id", accept)
    expected = b"text/html; charset=utf-8" if html else b"application/problem+json"
    assert dict(fields)[b"content-type"] == expected


def test_a_problem_document_has_the_members_of_rfc9457() -> None:
    status, fields, body = problem_response(errors.RouteNotFound("looked at 7 routes"), "abc", None)
    assert status == 404
    assert fields == [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No route matches the request.",
        "request_id": "abc",
    }


def test_without_a_request_id_there_is_no_member() -> None:
    assert "request_id" not in json.loads(problem_response(errors.RouteNotFound(), "", None)[2])
    assert b"Request" not in problem_response(errors.RouteNotFound(), "", BROWSER)[2]


@pytest.mark.parametrize("accept", [None, BROWSER])
@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectFailed("refused by 10.1.2.3:9001"),
        errors.InternalError("KeyError: 10.1.2.3:9001"),
        errors.NoEndpoint("10.1.2.3:9001 is out"),
        errors.ClientLeft("10.1.2.3:9001"),
    ],
)
def test_the_reason_is_never_shown(error: errors.GatewayError, accept: bytes | None) -> None:
    status, fields, body = problem_response(error, "id", accept)
    assert status == error.status
    assert b"10.1.2.3" not in body + b"".join(name + value for name, value in fields)
    assert error.detail.encode() in body


def test_headers_of_the_error_are_sent_and_stay_the_errors_own() -> None:
    error = errors.NoEndpoint(retry_after_s=7)
    _, fields, _ = problem_response(error, "id", None)
    assert (b"retry-after", b"7") in fields
    fields.clear()
    assert error.headers == [(b"retry-after", b"7")]


def test_an_error_that_ends_the_connection_says_so() -> None:
    assert (b"connection", b"close") in problem_response(errors.BodyTooLarge(), "", None)[1]
    assert (b"connection", b"close") not in problem_response(errors.Forbidden(), "", None)[1]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(max_size=40), st.text(max_size=20))
def test_nothing_in_a_page_is_markup_but_the_page(detail: str, request_id: str) -> None:
    error = errors.BadRequest(detail=detail)
    _, fields, body = problem_response(error, request_id, BROWSER)
    assert dict(fields)[b"content-length"] == b"%d" % len(body)
    page = _Text()
    page.feed(body.decode("utf-8"))
    page.close()
    assert page.tags in (
        ["html", "head", "meta", "meta", "meta", "title", "style", "body", "h1", "p"],
        ["html", "head", "meta", "meta", "meta", "title", "style", "body", "h1", "p", "p", "small"],
    )
    assert json.loads(problem_response(error, request_id, None)[2])["detail"] == error.detail


@given(st.binary(max_size=300))
def test_any_accept_field_is_taken(accept: bytes) -> None:
    prefers_html(accept)
