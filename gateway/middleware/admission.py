"""What must hold for every request before any route is looked at: who asks, and that nothing in it has two readings."""

from __future__ import annotations

import itertools
import secrets
from urllib.parse import quote

from starlette.types import Scope

from gateway.errors import (
    BadRequest,
    ClientLeft,
    ExpectationFailed,
    HeadersTooLarge,
    LoopDetected,
    MethodNotImplemented,
    TargetTooLong,
)
from gateway.exchange import Admitted, Exchange
from gateway.http.authority import normalise_host, parse_authority
from gateway.http.fields import Fields, with_hyphens
from gateway.http.forwarded import (
    X_FORWARDED_FOR,
    Identity,
    client_identity,
    direct_identity,
    has_via,
    request_id_of,
)
from gateway.http.hop_by_hop import admitted_fields
from gateway.http.location import mount_prefix
from gateway.http.networks import UNIX, Networks
from gateway.http.sections import CommonSections
from gateway.http.target import check_query, read_path

_JUDGED = frozenset([b"host", b"via", b"expect"])

SERVER_TARGET = "gateway.target"
"""Extension with the target as it stood in the request line; a server that sets it has enforced the limits too."""


class Admission:
    """A gate of the exchange: fills in client, scheme, host, path and request id, and cleans the request's fields.

    ``trusted`` are the proxies whose ``client_ip_from`` field is believed. ``pseudonym`` is the gateway's own in Via. A
    request id of a trusted peer in ``request_id_header`` is kept. ``subject_header`` has the subject of the client's
    certificate, never anything that a client wrote. The limits are for servers that do not enforce them themselves.
    Raises BadRequest, TargetTooLong, HeadersTooLarge, ExpectationFailed, MethodNotImplemented or LoopDetected, and
    ClientLeft for one whom nobody knows.
    """

    def __init__(
        self,
        *,
        pseudonym: str,
        trusted: Networks | None = None,
        client_ip_from: str = X_FORWARDED_FOR,
        request_id_header: str = "X-Request-ID",
        subject_header: str = "",
        max_headers: int = 100,
        max_header_bytes: int = 32 * 1024,
        max_target_bytes: int = 8 * 1024,
    ) -> None:
        self._pseudonym = pseudonym
        self._trusted = trusted or Networks()
        self._trusts_nobody = not self._trusted
        self._client_ip_from = client_ip_from
        self._request_id_header = request_id_header.lower().encode("ascii")
        self._subject_header = subject_header.lower().encode("ascii")
        self._dropped = with_hyphens(frozenset([self._request_id_header, self._subject_header])) - {b""}
        # The field that tells who the client is is nobody's but a trusted proxy's to send.
        kind, _, name = client_ip_from.partition(":")
        source = frozenset([name.lower().encode("ascii")]) if kind == "header" else frozenset()
        self._dropped_untrusted = self._dropped | source
        self._trusted_sections = CommonSections(self._dropped)
        self._sections = CommonSections(self._dropped_untrusted)
        self._max_headers = max_headers
        self._max_header_bytes = max_header_bytes
        self.max_target_bytes = max_target_bytes
        # Ids need to be unique, not secret: a random prefix for the process and a counter cost a twelfth of a UUID.
        self._id_prefix = secrets.token_hex(6)
        # Of eight digits from the start: to pad them would take half as long again.
        self._id_counter = itertools.count(0x10000001)

    def __call__(self, scope: Scope, exchange: Exchange) -> None:
        headers: Fields = scope["headers"]
        identity = self._identify(scope)
        self._describe(exchange, identity, headers)
        if SERVER_TARGET not in (scope.get("extensions") or ()):
            self._check_limits(exchange.target, headers)
        if exchange.method == "CONNECT":
            raise MethodNotImplemented("CONNECT asks for a tunnel")
        raw_path = scope.get("raw_path")
        if raw_path is None:
            raw_path = scope["raw_path"] = quote(scope["path"], safe="/%:@!$&'()*+,;=~-._").encode("ascii")
        check_query(scope["query_string"])
        exchange.path = read_path(raw_path)
        exchange.host, exchange.public_host = self._judge(headers)
        scope["headers"] = self._admitted_fields(scope, identity.trusted)

    def admit(self, scope: Scope) -> Admitted:
        """What ``__call__`` finds out that depends on nothing but connection and header section; raises as it does."""
        headers: Fields = scope["headers"]
        extensions = scope.get("extensions") or {}
        if SERVER_TARGET not in extensions:
            self._check_limits(b"", headers)
        client = scope.get("client")
        if self._trusts_nobody and client and client[0]:
            identity = direct_identity(client[0], scope.get("scheme", "http"))
        else:
            identity = self._identify(scope)
        request_id = request_id_of(headers, self._request_id_header) if identity.trusted else ""
        has_certificate = bool(extensions.get("tls")) and bool(_certificate_subject(scope))
        sections = self._trusted_sections if identity.trusted else self._sections
        section = None if has_certificate else sections.find(headers)
        if section is None:
            host, public_host = self._judge(headers)
            fields, names = self._admitted_fields(scope, identity.trusted), None
        else:
            public_host = headers[section.host_at][1]
            host = parse_authority(public_host).host
            fields, names = list(itertools.compress(headers, section.kept)), section.names
        root_path = scope.get("root_path")
        prefix = mount_prefix(root_path) if root_path else b""
        return Admitted(
            identity,
            host,
            public_host,
            request_id,
            fields,
            has_certificate=has_certificate,
            prefix=prefix,
            names=names,
        )

    def new_request_id(self) -> str:
        """An id that no other request has."""
        return f"{self._id_prefix}{next(self._id_counter):x}"

    def _identify(self, scope: Scope) -> Identity:
        return client_identity(
            _peer(scope),
            scope["headers"],
            trusted=self._trusted,
            source=self._client_ip_from,
            scheme=scope.get("scheme", "http"),
        )

    def _describe(self, exchange: Exchange, identity: Identity, headers: Fields) -> None:
        exchange.peer = identity.peer
        exchange.peer_trusted = identity.trusted
        exchange.client = identity.client
        exchange.chain = identity.chain
        exchange.scheme = identity.scheme
        if identity.trusted:
            exchange.request_id = request_id_of(headers, self._request_id_header) or exchange.request_id
        if not exchange.request_id:
            exchange.request_id = self.new_request_id()

    def _admitted_fields(self, scope: Scope, is_trusted: bool) -> Fields:
        fields = admitted_fields(scope["headers"], drop=self._dropped if is_trusted else self._dropped_untrusted)
        if self._subject_header:
            subject = _certificate_subject(scope)
            if subject:
                fields.append((self._subject_header, subject))
        return fields

    def _check_limits(self, target: bytes, headers: Fields) -> None:
        if len(target) > self.max_target_bytes:
            raise TargetTooLong(f"the target has more than {self.max_target_bytes} bytes")
        if len(headers) > self._max_headers:
            raise HeadersTooLarge(f"the request has more than {self._max_headers} fields")
        # As on the wire: each field with ": " and CRLF.
        if sum(len(name) + len(value) + 4 for name, value in headers) > self._max_header_bytes:
            raise HeadersTooLarge(f"the fields have more than {self._max_header_bytes} bytes")

    def _judge(self, headers: Fields) -> tuple[str, bytes]:
        """The host for matching, and the Host field as it came."""
        hosts: list[bytes] = []
        for name, value in headers:
            if name not in _JUDGED:
                continue
            if name == b"host":
                hosts.append(value)
            elif name == b"via":
                if has_via(headers, self._pseudonym):
                    raise LoopDetected("the request carries this gateway's own Via")
            elif value.strip().lower() != b"100-continue":
                raise ExpectationFailed("an expectation other than 100-continue")
        host = normalise_host(hosts)
        if not host:
            raise BadRequest("the Host field is empty")
        return host, hosts[0]


def _peer(scope: Scope) -> str:
    """The other end of the connection; on a UNIX socket it has no address, and neither has the server a port."""
    client = scope.get("client")
    if client and client[0]:
        peer: str = client[0]
        return peer
    server = scope.get("server")
    if server and server[1] is not None:
        # It was asked for its address when it had gone. Rules that look at who asks must not take it for another.
        raise ClientLeft("the client left before anybody saw who it was")
    return UNIX


def _certificate_subject(scope: Scope) -> bytes:
    """The subject of the client's certificate that the server has verified, RFC 4514; empty when there is none."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return (tls.get("client_cert_name") or "").encode("utf-8")
