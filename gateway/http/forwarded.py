"""Who the client is as far as trusted proxies can be believed, and how the next hop is told: Forwarded (RFC 7239), the
X-Forwarded-* fields, Via (RFC 9110 section 7.6.3) and the request id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from gateway.http.fields import get_all
from gateway.http.networks import UNIX, Networks, normal_address

Field = tuple[bytes, bytes]

X_FORWARDED_FOR = "x-forwarded-for"
FORWARDED = "forwarded"

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORTS = {"http": b"80", "https": b"443"}
_MAX_REMEMBERED_HOST = 255
_MAX_REMEMBERED_CHAIN = 8

_IPV4_AND_PORT = re.compile(r"([0-9.]+)(?::[0-9]{1,5})?")
_IPV6_AND_PORT = re.compile(r"\[([0-9A-Fa-f:.%_a-z-]+)\](?::[0-9]{1,5})?")
# Ports in Forwarded may be obfuscated, RFC 7239 section 6.
_NODE = re.compile(r"([0-9.]+|\[[0-9A-Fa-f:.]+\])(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_QUOTE_OR_COMMA = re.compile(rb'[",]')
_PAIR = re.compile(
    rb'[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&\'*+.^_`|~0-9A-Za-z:\[\]-]*)|"((?:[^"\\]|\\.)*)")[ \t]*(?:;|\Z)'
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_PORT = re.compile(rb"(?:\[[^\]]*\]|[^:\[\]]*):([0-9]{1,5})")
_COMMENT_PART = re.compile(rb"[^()\\]+|\\.?|[()]", re.DOTALL)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a request comes from."""

    client: str
    """Address of the client, in normal form; the peer's own where nothing else is believed."""
    scheme: str
    """The public scheme, ``http`` or ``https``."""
    chain: tuple[str, ...]
    """Addresses that are believed, from the client to the proxy before the peer; empty when the peer is the client."""
    peer: str
    """Address of the other end of the connection, in normal form, or ``unix``."""
    trusted: bool
    """Whether the peer is a trusted proxy."""


def public_scheme(scheme: str) -> str:
    """``http`` or ``https``: what a scheme of HTTP or WebSocket means for URLs."""
    return _SCHEMES.get(scheme, "http")


def client_identity(
    peer: str, fields: Iterable[Field], *, trusted: Networks, source: str = X_FORWARDED_FOR, scheme: str = "http"
) -> Identity:
    """Who sent a request that came from ``peer``.

    ``source`` is ``x-forwarded-for``, ``forwarded`` or ``header:NAME``: the one field that is read, and from a trusted
    peer only. Addresses are believed from the right up to and including the first that is not a trusted proxy; what is
    no address ends the walk. ``scheme`` is that of the connection; the one of a trusted peer wins: ``proto`` of
    Forwarded where that is the source, else X-Forwarded-Proto.
    """
    if not trusted.contains(peer):
        return direct_identity(peer, scheme)
    if source == FORWARDED:
        chain, proto = _walk_forwarded(get_all(fields, b"forwarded"), trusted)
    else:
        fields = list(fields)
        name = source.lower().removeprefix("header:").encode("latin-1")
        chain = _walk(get_all(fields, name), trusted)
        proto = _forwarded_proto(get_all(fields, b"x-forwarded-proto"), len(chain))
    peer = normal_address(peer)
    return Identity(
        client=chain[0] if chain else peer,
        scheme=proto or public_scheme(scheme),
        chain=tuple(chain),
        peer=peer,
        trusted=True,
    )


@lru_cache(maxsize=4096)
def direct_identity(peer: str, scheme: str) -> Identity:
    """Who sent a request that came from ``peer``, of whom nothing is believed."""
    address = normal_address(peer)
    return Identity(client=address, scheme=public_scheme(scheme), chain=(), peer=address, trusted=False)


def _walk(values: list[bytes], trusted: Networks) -> list[str]:
    """The believed addresses of a list field, in its order."""
    chain: list[str] = []
    for value in reversed(values):
        for member in reversed(value.split(b",")):
            text = member.strip(b" \t").decode("latin-1")
            # RFC 9110 section 5.6.1.2: empty elements count for nothing.
            if not text:
                continue
            address = _member_address(text)
            if not address:
                return chain
            chain.insert(0, address)
            if not trusted.contains(address):
                return chain
    return chain


def _member_address(text: str) -> str:
    """The address in a member of X-Forwarded-For, with or without port and brackets; empty when there is none."""
    match = _IPV4_AND_PORT.fullmatch(text) or _IPV6_AND_PORT.fullmatch(text)
    return _ip(match[1] if match is not None else text)


def _ip(text: str) -> str:
    address = normal_address(text)
    return "" if address == UNIX else address


def _forwarded_proto(values: list[bytes], hops: int) -> str:
    """The scheme that the client used: of a list, the member that the proxy next to the client put there."""
    members = [member.strip(b" \t") for value in values for member in value.split(b",")]
    if not members:
        return ""
    member = members[-min(max(hops, 1), len(members))]
    return _SCHEMES.get(member.decode("latin-1").lower(), "")


def _walk_forwarded(values: list[bytes], trusted: Networks) -> tuple[list[str], str]:
    """The believed addresses of Forwarded, in its order, and the scheme that is said nearest to the client."""
    chain: list[str] = []
    proto = ""
    for value in reversed(values):
        for element in _elements_from_right(value):
            if not element.strip(b" \t"):
                continue
            pairs = _pairs(element)
            if pairs is None:
                return chain, proto
            address = _node_address(pairs.get(b"for", b""))
            # The peer itself wrote the rightmost element, so its proto counts even where it hides the address.
            if address or not chain:
                proto = _SCHEMES.get(pairs.get(b"proto", b"").decode("latin-1").lower(), "") or proto
            if not address:
                return chain, proto
            chain.insert(0, address)
            if not trusted.contains(address):
                return chain, proto
    return chain, proto


def _elements_from_right(value: bytes) -> Iterator[bytes]:
    """The elements of a Forwarded line, the last one first.

    Read from the right, for only that end is a trusted proxy's: a quote that a client left open further left must not
    swallow what the proxy added. A quote of the proxy's is never escaped outside its quoted string.
    """
    end = len(value)
    quoted = False
    for match in reversed(list(_QUOTE_OR_COMMA.finditer(value))):
        position = match.start()
        if match[0] == b'"':
            if not (quoted and _is_escaped(value, position)):
                quoted = not quoted
        elif not quoted:
            yield value[position + 1 : end]
            end = position
    yield value[:end]


def _is_escaped(value: bytes, position: int) -> bool:
    before = value[:position]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _pairs(element: bytes) -> dict[bytes, bytes] | None:
    """The parameters of one element by lower-case name; None when it is malformed or names one twice."""
    pairs: dict[bytes, bytes] = {}
    position = 0
    while position < len(element):
        match = _PAIR.match(element, position)
        if match is None:
            return None
        name = match[1].lower()
        if name in pairs:
            return None
        pairs[name] = match[2] if match[2] is not None else _ESCAPED.sub(rb"\1", match[3])
        position = match.end()
    return pairs


def _node_address(node: bytes) -> str:
    """The address of a node, RFC 7239 section 6; empty for ``unknown`` and obfuscated ones, which cannot be judged."""
    match = _NODE.fullmatch(node.decode("latin-1"))
    return _ip(match[1].strip("[]")) if match is not None else ""


def forwarding_fields(chain: tuple[str, ...], peer: str, host: bytes, scheme: str) -> tuple[Field, ...]:
    """The fields that tell an upstream who the client is, all from the same facts.

    ``chain`` and ``peer`` as in Identity, ``host`` as the client sent it, ``scheme`` the public one. A peer on a UNIX
    socket has no address: it stands in Forwarded as ``unknown``, and in X-Forwarded-For not at all.
    """
    if len(host) <= _MAX_REMEMBERED_HOST and len(chain) <= _MAX_REMEMBERED_CHAIN:
        return _forwarding_fields_cached(chain, peer, host, scheme)
    return _forwarding_fields(chain, peer, host, scheme)


def _forwarding_fields(chain: tuple[str, ...], peer: str, host: bytes, scheme: str) -> tuple[Field, ...]:
    hops = [*chain, peer]
    addresses = [hop.encode("ascii") for hop in hops if hop not in (UNIX, "")]
    proto = scheme.encode("ascii")
    fields: list[Field] = []
    if addresses:
        fields.append((b"x-forwarded-for", b", ".join(addresses)))
    fields.append((b"x-forwarded-proto", proto))
    nodes = [b"for=" + _node(hop) for hop in hops]
    # What the client's own request said belongs to the hop that took it from the client: the first.
    if host:
        nodes[0] += b";host=" + _token_or_quoted(host)
        match = _HOST_PORT.fullmatch(host)
        fields.append((b"x-forwarded-host", host))
        fields.append((b"x-forwarded-port", match[1] if match is not None else _PORTS[scheme]))
    nodes[0] += b";proto=" + proto
    if hops[0] not in (UNIX, ""):
        fields.append((b"x-real-ip", addresses[0]))
    fields.append((b"forwarded", b", ".join(nodes)))
    return tuple(fields)


_forwarding_fields_cached = lru_cache(maxsize=4096)(_forwarding_fields)


def forwarding_lines(chain: tuple[str, ...], peer: str, host: bytes, scheme: str) -> bytes:
    """``forwarding_fields`` as they stand in a head."""
    if len(host) <= _MAX_REMEMBERED_HOST and len(chain) <= _MAX_REMEMBERED_CHAIN:
        return _forwarding_lines_cached(chain, peer, host, scheme)
    return _forwarding_lines(chain, peer, host, scheme)


def _forwarding_lines(chain: tuple[str, ...], peer: str, host: bytes, scheme: str) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in _forwarding_fields(chain, peer, host, scheme)])


_forwarding_lines_cached = lru_cache(maxsize=4096)(_forwarding_lines)


def _node(address: str) -> bytes:
    if address in (UNIX, ""):
        return b"unknown"
    return b'"[%b]"' % address.encode("ascii") if ":" in address else address.encode("ascii")


def _token_or_quoted(value: bytes) -> bytes:
    if _TOKEN.fullmatch(value):
        return value
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


@lru_cache(maxsize=64)
def via_value(http_version: str, pseudonym: str) -> bytes:
    """The member of Via for a message received with ``http_version``, such as ``1.1``."""
    return f"{http_version} {pseudonym}".encode("ascii")


def has_via(fields: Iterable[Field], pseudonym: str) -> bool:
    """Whether a request has passed ``pseudonym`` already: it is the received-by of a member of Via.

    What stands in comments does not count, unless they are left open: nobody must be able to hide a loop in one.
    """
    values = [value for name, value in fields if name == b"via"]
    return bool(values) and _names_hop(values, pseudonym.lower().encode("ascii"))


def _names_hop(values: list[bytes], pseudonym: bytes) -> bool:
    for value in values:
        value = value.lower()
        if pseudonym not in value:
            continue
        for member in _without_comments(value).split(b","):
            parts = member.split()
            if len(parts) > 1 and parts[1] == pseudonym:
                return True
    return False


def _without_comments(value: bytes) -> bytes:
    """``value`` with a space for each comment, RFC 9110 section 5.6.5; what opens one that never ends is no comment."""
    kept: list[bytes] = []
    depth = begun_at = 0
    for part in _COMMENT_PART.finditer(value):
        if part[0] == b"(":
            if not depth:
                begun_at = part.start()
            depth += 1
        elif part[0] == b")" and depth:
            depth -= 1
            if not depth:
                kept.append(b" ")
        elif not depth:
            kept.append(part[0])
    return b"".join(kept) + (value[begun_at:] if depth else b"")


def is_request_id(value: bytes) -> bool:
    """Whether a request id that came from outside can be used everywhere: in logs, fields and pages."""
    return _REQUEST_ID.fullmatch(value) is not None


def request_id_of(fields: Iterable[Field], name: bytes) -> str:
    """The request id in field ``name``; empty when there is none, several, or one that is malformed."""
    values = get_all(fields, name)
    return values[0].decode("ascii") if len(values) == 1 and is_request_id(values[0]) else ""
