"""Requests that the server answers itself, because the application must not see them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.http.problem import problem_response
from gateway.server.response_head import response_head


@dataclass(frozen=True)
class Refusal:
    """A request that the server answered itself; the application heard nothing of it."""

    error: GatewayError
    client: str
    """Address of the other end of the connection; ``"unix"`` on a UNIX socket."""
    method: str
    """Empty when the request line did not come so far."""
    target: str
    request_id: str


def refusal_answer(error: GatewayError, request_id: str, *, is_head: bool, date_line: bytes) -> bytes:
    """The whole answer to a refused request, after which the connection closes."""
    status, fields, body = problem_response(error, request_id, None)
    head, *_ = response_head(status, fields, is_head, True, False, date_line)
    return head if is_head else head + body
