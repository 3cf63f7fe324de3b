"""Which network addresses a server may fetch from on behalf of a stranger."""

import ipaddress
from collections.abc import Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC: Final = (
    # Public by number, but answered inside the cloud:
    # https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    ipaddress.ip_network("168.63.129.16/32"),
    # Not global in the registries, and some releases of ``ipaddress`` take parts of them for it:
    # https://www.iana.org/assignments/iana-ipv4-special-registry (and -ipv6-)
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("192.88.99.0/24"),  # relays into 6to4, deprecated by RFC 7526
    ipaddress.ip_network("fec0::/10"),
    ipaddress.ip_network("3fff::/20"),
    ipaddress.ip_network("64:ff9b:1::/48"),
)


def is_public(address: Address) -> bool:
    """Whether the address is on the public internet: not private, loopback, link-local,
    multicast, reserved or a cloud's metadata service, nor an IPv6 form of one that is."""
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    if address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return address.is_global and not _within(address, _NOT_PUBLIC)


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether to connect: public, or within a network that the operator allows."""
    embedded = _embedded(address)
    return is_public(address) or _within(embedded or address, allowed)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
