"""What can go wrong with an exchange: one tree.

    GatewayError                  fault, status, request_sent
      ClientError                 fault "client"
        BadRequest                400  malformed or unsafe target, framing or fields; a body that breaks off
          NotDecodable            400  a coded request body that does not decode
        Unauthorized              401
        Forbidden                 403
        RouteNotFound             404
        MethodNotAllowed          405  with Allow
        RequestTimeout            408
        BodyTooLarge              413
        TargetTooLong             414
        UnsupportedCoding         415
        ExpectationFailed         417
        UpgradeRequired           426  a WebSocket of another version than the one that is known
        TooManyRequests           429  with Retry-After
        HeadersTooLarge           431
        MethodNotImplemented      501
        LoopDetected              508
        ClientLeft                499  never sent: there is nobody to read it
      UpstreamError               fault "upstream"
        ConnectFailed             502  refused, unreachable, DNS, TLS: nothing was sent
          ConnectTimeout          504
          ConnectPending          502  not connected yet, and there is another endpoint to go to
        ConnectionBroken          502  reset or closed before the response head was complete
        BadUpstreamResponse       502  what came is not HTTP that two parsers would read alike
        UpstreamTimeout           504  no response head in time
        ResponseBroken            502  failed after the response head: the client's connection is aborted
        UpstreamAppFailed         502  an in-process application raised
      CapacityError               fault "gateway", 503 with Retry-After
        NoEndpoint                503  no endpoint can take the request
        QueueFull                 503  max_pending or queue_timeout
        Overloaded                503  max_concurrent, max_in_flight, loop lag, draining
      InternalError               500  a defect in the gateway or in user middleware

``status`` and ``headers`` say how to answer, ``fault`` whose counters move, ``request_sent`` whether the upstream may
have acted on the request already. ``detail`` is for the client and names nothing internal; ``reason`` is for the log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from asyncio import Future

Fault = Literal["client", "upstream", "gateway"]
Headers = list[tuple[bytes, bytes]]


class GatewayError(Exception):
    """An exchange that the gateway has to answer, or to cut, itself."""

    status: ClassVar[int] = 500
    fault: ClassVar[Fault] = "gateway"
    detail: str = ""
    request_sent: bool = False
    close: ClassVar[bool] = False
    """Whether the client's connection must not be used again after the answer."""

    def __init__(self, reason: str = "", *, detail: str = "", headers: Headers | None = None) -> None:
        super().__init__(reason or detail or type(self).__name__)
        self.reason = reason or detail
        if detail:
            self.detail = detail
        self.headers: Headers = [] if headers is None else headers

    @property
    def title(self) -> str:
        """The reason phrase of ``status``."""
        return HTTPStatus(self.status).phrase if self.status != 499 else "Client Closed Request"


class ClientError(GatewayError):
    """The request cannot be served as it is."""

    fault = "client"


class BadRequest(ClientError):
    status = 400
    detail = "The request is malformed or could be read in more than one way."
    close = True


class NotDecodable(BadRequest):
    detail = "The request body does not decode with the content coding it names."


class Unauthorized(ClientError):
    status = 401
    detail = "Credentials are required."


class Forbidden(ClientError):
    status = 403
    detail = "Access is denied."


class RouteNotFound(ClientError):
    status = 404
    detail = "No route matches the request."


class MethodNotAllowed(ClientError):
    status = 405
    detail = "The resource exists, but not for this method."


class RequestTimeout(ClientError):
    status = 408
    detail = "The request took too long to arrive."
    close = True


class BodyTooLarge(ClientError):
    status = 413
    detail = "The request body is larger than allowed."
    close = True


class TargetTooLong(ClientError):
    status = 414
    detail = "The request target is longer than allowed."
    close = True


class UnsupportedCoding(ClientError):
    status = 415
    detail = "The content coding of the request body is not supported."


class ExpectationFailed(ClientError):
    status = 417
    detail = "The only expectation supported is 100-continue."


class TooManyRequests(ClientError):
    status = 429
    detail = "Too many requests."


class UpgradeRequired(ClientError):
    status = 426
    detail = "The version of WebSocket must be 13."
    close = True


class HeadersTooLarge(ClientError):
    status = 431
    detail = "The request has more or larger header fields than allowed."
    close = True


class MethodNotImplemented(ClientError):
    status = 501
    detail = "The method is not supported."
    close = True


class LoopDetected(ClientError):
    status = 508
    detail = "The request has passed this gateway before."


class ClientLeft(ClientError):
    """The client closed its connection; nothing is answered, and nothing counts against the upstream."""

    status = 499


class UpstreamError(GatewayError):
    """An attempt failed, and not because of the client."""

    status = 502
    fault = "upstream"
    detail = "The upstream service could not be reached or answered badly."

    def __init__(self, reason: str = "", *, request_sent: bool | None = None, detail: str = "") -> None:
        super().__init__(reason, detail=detail)
        if request_sent is not None:
            self.request_sent = request_sent


class ConnectFailed(UpstreamError):
    """Refused, unreachable, not resolved, or TLS failed: nothing of the request was sent."""


class ConnectTimeout(ConnectFailed):
    status = 504
    detail = "The upstream service could not be reached in time."


class ConnectPending(ConnectFailed):
    """Not connected yet, where another endpoint may be quicker; to connect goes on until ``outcome``."""

    def __init__(self, reason: str, outcome: Future[Any]) -> None:
        super().__init__(reason)
        self.outcome = outcome


class ConnectionBroken(UpstreamError):
    """The connection was reset or closed before the response head was complete."""

    request_sent = True


class BadUpstreamResponse(UpstreamError):
    """The response is not HTTP, or could be read in more than one way."""

    request_sent = True


class UpstreamTimeout(UpstreamError):
    status = 504
    request_sent = True
    detail = "The upstream service did not answer in time."


class ResponseBroken(UpstreamError):
    """The response failed after its head: too late for another answer."""

    request_sent = True


class UpstreamAppFailed(UpstreamError):
    """An in-process application raised before it answered."""

    request_sent = True


class CapacityError(GatewayError):
    """The gateway cannot take the request now."""

    status = 503
    detail = "The service is not available at the moment."

    def __init__(self, reason: str = "", *, detail: str = "", retry_after_s: int = 1) -> None:
        super().__init__(reason, detail=detail, headers=[(b"retry-after", b"%d" % max(1, retry_after_s))])


class NoEndpoint(CapacityError):
    """No endpoint of the upstream can take the request."""


class QueueFull(CapacityError):
    """Too many requests wait for a connection, or one waited too long."""


class Overloaded(CapacityError):
    """The route or the process has as many requests in flight as it may, or the gateway is draining."""


class InternalError(GatewayError):
    """A defect: the log has the traceback, the client has the request id."""

    detail = "The gateway failed to process the request."
    close = True
