"""Addresses of clients and peers, and the networks they belong to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

UNIX = "unix"
"""Stands for the address of whoever comes over a UNIX socket."""

_MAX_ADDRESS_CHARS = 64
_MAX_REMEMBERED = 4096


@lru_cache(maxsize=_MAX_REMEMBERED)
def normal_address(text: str) -> str:
    """An IP address in the one spelling that is compared; empty when ``text`` is none.

    IPv6 loses its zone, ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2) is a.b.c.d, and ``unix`` stays.
    """
    if text == UNIX:
        return UNIX
    address = _parse(text)
    return "" if address is None else str(address)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if len(text) > _MAX_ADDRESS_CHARS:
        return None
    address, _, zone = text.partition("%")
    if "%" in text and (not zone or ":" not in address):
        return None
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


class Networks:
    """A set of networks in CIDR notation, single addresses, and ``unix``. Raises ValueError for anything else.

    IPv4-mapped IPv6 is IPv4, in the networks as in the addresses: ``::/0`` is every IPv6 address and no IPv4 one.
    """

    __slots__ = ("_has_unix", "_ipv4", "_ipv6", "_remembered", "cidrs")

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        self.cidrs = tuple(cidrs)
        self._has_unix = UNIX in self.cidrs
        self._ipv4: list[tuple[int, int]] = []
        self._ipv6: list[tuple[int, int]] = []
        for cidr in self.cidrs:
            if cidr != UNIX:
                self._add(ipaddress.ip_network(cidr, strict=False))
        # By address as it is written: parsing one takes 3 us, and the same clients come again.
        self._remembered = lru_cache(maxsize=_MAX_REMEMBERED)(self._contains)

    def _add(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        if isinstance(network, ipaddress.IPv6Network):
            mapped = network.network_address.ipv4_mapped
            if mapped is None or network.prefixlen < 96:
                self._ipv6.append((int(network.netmask), int(network.network_address)))
                return
            network = ipaddress.IPv4Network((mapped, network.prefixlen - 96))
        self._ipv4.append((int(network.netmask), int(network.network_address)))

    def contains(self, address: str) -> bool:
        """Whether ``address`` lies in one of the networks; what is no address lies in none."""
        return bool(self.cidrs) and self._remembered(address)

    def _contains(self, address: str) -> bool:
        if address == UNIX:
            return self._has_unix
        parsed = _parse(address)
        if parsed is None:
            return False
        number = int(parsed)
        networks = self._ipv4 if parsed.version == 4 else self._ipv6
        return any(number & mask == network for mask, network in networks)

    def __contains__(self, address: str) -> bool:
        return self.contains(address)

    def __bool__(self) -> bool:
        return bool(self.cidrs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and self.cidrs == other.cidrs

    def __hash__(self) -> int:
        return hash(self.cidrs)
