"""What the client sees when the gateway answers itself: problem details (RFC 9457), or a page for people."""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache

from gateway.errors import GatewayError
from gateway.http.fields import Fields

_HTML = "text/html"
_JSON = ("application/problem+json", "application/json")
_RANGE = re.compile(rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*((?:;[^,]*)?)")
_WEIGHT = re.compile(rb"(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MAX_REMEMBERED_BYTES = 256

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{status} {title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto 0; padding: 0 1.5rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .5rem; }}
small {{ opacity: .7; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{status} {title}</h1>
<p>{detail}</p>
{footer}</body>
</html>
"""


def problem_response(error: GatewayError, request_id: str, accept: bytes | None) -> tuple[int, Fields, bytes]:
    """Status, fields and body that answer ``error``; ``accept`` is the joined Accept field of the request.

    Says what ``error.detail`` says and never its ``reason``. ``request_id`` may be empty.
    """
    if prefers_html(accept):
        content_type, body = b"text/html; charset=utf-8", _page(error, request_id)
    else:
        content_type, body = b"application/problem+json", _document(error, request_id)
    fields: Fields = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *error.headers,
    ]
    if error.close:
        fields.append((b"connection", b"close"))
    return error.status, fields, body


def _document(error: GatewayError, request_id: str) -> bytes:
    members: dict[str, object] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if request_id:
        members["request_id"] = request_id
    return json.dumps(members).encode("ascii")


def _page(error: GatewayError, request_id: str) -> bytes:
    footer = f"<p><small>Request {html.escape(request_id)}</small></p>\n" if request_id else ""
    page = _PAGE.format(
        status=error.status, title=html.escape(error.title), detail=html.escape(error.detail), footer=footer
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def prefers_html(accept: bytes | None) -> bool:
    """Whether a client would rather read HTML than JSON, RFC 9110 section 12.5.1; without a preference: JSON."""
    if not accept:
        return False
    return _prefers_html_cached(accept) if len(accept) <= _MAX_REMEMBERED_BYTES else _prefers_html(accept)


def _prefers_html(accept: bytes) -> bool:
    weights = _weights(accept)
    return _weight(_HTML, weights) > max(_weight(media_type, weights) for media_type in _JSON)


_prefers_html_cached = lru_cache(maxsize=512)(_prefers_html)


def _weights(accept: bytes) -> dict[str, float]:
    """Weight by media range in lower case; members that are malformed do not count."""
    weights: dict[str, float] = {}
    for member in accept.split(b","):
        match = _RANGE.fullmatch(member)
        if match is None:
            continue
        weight = 1.0
        plain = True
        for parameter in match[2].split(b";")[1:]:
            name, _, value = parameter.strip(b" \t").partition(b"=")
            if name.strip().lower() == b"q":
                found = _WEIGHT.fullmatch(value.strip())
                weight = float(found[1]) if found is not None else 0.0
                break
            # text/html;level=1 is not what would be sent.
            plain = plain and name.strip().lower() in (b"", b"charset")
        if plain:
            weights.setdefault(match[1].decode("ascii").lower(), weight)
    return weights


def _weight(media_type: str, weights: dict[str, float]) -> float:
    """The weight of the most specific range that covers ``media_type``."""
    for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if media_range in weights:
            return weights[media_range]
    return 0.0
