"""Requests that the server answers itself, because the application must not see them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.http.problem import problem_response
from gateway.server.framing import HeadReader
from gateway.server.response_head import response_head


@dataclass(frozen=True)
class Refusal:
    """A request that the server answered, or cut off, itself; the application heard nothing of it, or not all."""

    error: GatewayError
    client: str
    """Address of the other end of the connection; ``"unix"`` on a UNIX socket."""
    method: str
    """Empty when the request line did not come so far."""
    target: str
    request_id: str
    answered: bool
    """False when the connection was cut because an answer had begun already."""

    @classmethod
    def of(
        cls, head: HeadReader, error: GatewayError, client: tuple[str, int] | None, request_id: str, *, answered: bool
    ) -> Refusal:
        """The refusal of the request of which ``head`` has read as much as has come."""
        return cls(
            error=error,
            client=client[0] if client is not None else "unix",
            method=head.method.decode("latin-1"),
            target=head.target.decode("latin-1"),
            request_id=request_id,
            answered=answered,
        )


def refusal_answer(
    error: GatewayError, request_id: str, *, request_id_field: bytes, is_head: bool, date_line: bytes
) -> bytes:
    """The whole answer to a refused request, after which the connection closes.

    ``request_id_field`` is the name of the field that carries the id, in lower case; empty: none does.
    """
    status, fields, body = problem_response(error, request_id, None)
    if request_id and request_id_field:
        fields.append((request_id_field, request_id.encode("ascii")))
    head, *_ = response_head(status, fields, is_head, True, False, date_line)
    return head if is_head else head + body
