"""Which addresses a request may reach: public ones, and those of networks that the operator allows."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
"""The well-known prefix (RFC 6052, 2.1). The prefix for local use (RFC 8215) is not public."""
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared by carriers (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the metadata services of clouds (RFC 3927)
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "168.63.129.16/32",  # the platform service of Azure, on a public address
        "2001::/23",  # protocol assignments, with Teredo and benchmarks (RFC 2928)
        "2001:db8::/32",
        "3fff::/20",  # documentation (RFC 9637)
        "2620:4f:8000::/48",
        "5f00::/16",  # segment routing (RFC 9602)
    )
)
"""The special-purpose registries of IANA, and one address of a cloud. IPv6: see _GLOBAL_UNICAST."""
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only part of IPv6 that is public (RFC 4291, 2.4). The rest is local, multicast, embedded or unassigned."""


class AddressRule:
    """Allows public addresses, and those in `private_networks`: networks separated by commas."""

    def __init__(self, private_networks: str) -> None:
        self._private_networks = tuple(map(ip_network, filter(None, private_networks.split(","))))

    def allows(self, address: str) -> bool:
        """Whether a request may connect to this address."""
        parsed = _parse(address)
        return parsed is not None and all(self._allows(one) for one in (parsed, *_embedded(parsed)))

    def is_private_but_allowed(self, address: str) -> bool:
        """Whether the address is in one of the private networks."""
        parsed = _parse(address)
        return parsed is not None and self.allows(address) and self._is_listed(parsed)

    def _allows(self, address: Address) -> bool:
        return self._is_listed(address) or _is_public(address) or bool(_embedded(address))

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._private_networks)


def _parse(address: str) -> Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return None if isinstance(parsed, IPv6Address) and parsed.scope_id is not None else parsed


def _is_public(address: Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address in _GLOBAL_UNICAST if isinstance(address, IPv6Address) else True


def _embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which an IPv6 address may lead: mapped, translated (NAT64), tunnelled (6to4).

    Each of them must be allowed, too. Teredo and IPv4-compatible addresses are not public in themselves.
    """
    return tuple(_embedded_in(address)) if isinstance(address, IPv6Address) else ()


def _embedded_in(address: IPv6Address) -> Iterator[IPv4Address]:
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
