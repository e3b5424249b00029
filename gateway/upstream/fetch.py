"""Requests of the gateway's own: an issuer's keys, a question to an authentication service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from gateway.errors import BadUpstreamResponse, UpstreamTimeout
from gateway.http.fields import Fields
from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.messages import InboundResponse, OutboundRequest
from gateway.upstream.transports import transport_for

MAX_BYTES = 1024 * 1024
TIMEOUT_S = 5.0


class FetchedAnswer(NamedTuple):
    """A whole answer; names of fields in lower case."""

    status: int
    fields: Fields
    body: bytes


class Fetcher:
    """Gets http:// and https:// URLs over connections that are kept for a while.

    What is given is what is sent: no redirect is followed, no cookie kept, no environment read. An answer must be
    complete after ``timeout_s`` seconds and have at most ``max_bytes`` of body.
    """

    def __init__(self, ticker: Ticker, *, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES) -> None:
        self.timeout_s = timeout_s
        self.max_bytes = max_bytes
        self._ticker = ticker
        self._places: dict[str, _Place] = {}
        self._transports: dict[tuple[str, str, int | None], Http1Transport] = {}

    async def __call__(self, url: str, fields: Sequence[tuple[bytes, bytes]]) -> FetchedAnswer:
        """The answer to GET with these request fields, Host aside.

        Raises UpstreamError: not connected, broken off, malformed, too large or too late; ValueError for another
        scheme.
        """
        place = self._places.get(url)
        if place is None:
            place = self._places[url] = self._place(url)
        request = OutboundRequest(b"GET", place.url, [place.host, *fields], None, {"target": place.target})
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await place.transport.handle_async_request(request)
                body = await self._body(response)
        except TimeoutError as error:
            raise UpstreamTimeout(f"no whole answer within {self.timeout_s:g} s") from error
        return FetchedAnswer(response.status_code, response.raw_fields, body)

    async def aclose(self) -> None:
        """Close the connections; what still runs ends as broken."""
        for transport in self._transports.values():
            transport.abort()
            await transport.aclose()

    async def _body(self, response: InboundResponse) -> bytes:
        body = bytearray(response.whole or b"")
        if response.whole is None:
            try:
                async for piece in response.stream:
                    body += piece
                    if len(body) > self.max_bytes:
                        break
            finally:
                response.stream.close()
        if len(body) > self.max_bytes:
            raise BadUpstreamResponse(f"an answer of more than {self.max_bytes} bytes")
        return bytes(body)

    def _place(self, text: str) -> _Place:
        url = httpx.URL(text)
        origin = (url.scheme, url.host, url.port)
        transport = self._transports.get(origin)
        if transport is None:
            if url.scheme not in ("http", "https"):
                raise ValueError("not an http:// or https:// URL")
            transport = self._transports[origin] = transport_for(
                url.scheme,
                ticker=self._ticker,
                host=url.host,
                port=url.port,
                server_hostname=url.host,
                connect_timeout_s=self.timeout_s,
            )
        return _Place(transport, url, (b"host", url.netloc), url.raw_path)


class _Place(NamedTuple):
    """Where a URL leads."""

    transport: Http1Transport
    url: httpx.URL
    host: tuple[bytes, bytes]
    target: bytes
