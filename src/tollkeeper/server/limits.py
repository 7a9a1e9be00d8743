"""The limits of one server process on its connections: how many, from where, and how much of a request's head."""

import ipaddress
import resource
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

RESERVED_DESCRIPTORS = 256
"""File descriptors that are kept for the database, providers and files."""

MAX_CONNECTIONS = "TOLLKEEPER_MAX_CONNECTIONS"
MAX_CONNECTIONS_PER_ADDRESS = "TOLLKEEPER_MAX_CONNECTIONS_PER_ADDRESS"
MAX_HEAD_BYTES = "TOLLKEEPER_MAX_HEAD_BYTES"
MAX_HEAD_FIELDS = "TOLLKEEPER_MAX_HEAD_FIELDS"
HEAD_SECONDS = "TOLLKEEPER_HEAD_SECONDS"
SOCKET_FRAMES_PER_SECOND = "TOLLKEEPER_SOCKET_FRAMES_PER_SECOND"
SOCKET_BYTES = "socket_bytes"
"""Stands for the limit on the bytes of a WebSocket, which is no setting."""
LIMITS = (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_HEAD_BYTES,
    MAX_HEAD_FIELDS,
    HEAD_SECONDS,
    SOCKET_FRAMES_PER_SECOND,
    SOCKET_BYTES,
)
"""What may refuse a connection, a request or a WebSocket."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What a client may send before the application sees a request. Sizes in bytes, times in seconds.

    `head_s` is the time for a request's head, from the opened connection or the first byte; `idle_s` is how long a kept
    connection may be idle between two requests. Addresses in `trusted_proxies` ("*", or addresses and networks,
    separated by commas) may open any number of connections within `max_connections`. The frames and bytes of a
    WebSocket are limited by token buckets, control frames included.
    """

    max_head_bytes: int = 32 * 1024
    max_head_fields: int = 100
    head_s: float = 10.0
    idle_s: float = 75.0
    max_connections: int = 10_000
    max_connections_per_address: int = 2_000
    trusted_proxies: str = ""
    socket_frames_per_s: float = 50.0
    socket_frames_burst: float = 1_000.0
    socket_bytes_per_s: float = 2.0 * 1024 * 1024
    socket_bytes_burst: float = 64.0 * 1024 * 1024


class Connections:
    """Counts the open connections of a process, in all and per address, and what the limits have refused.

    IPv6 clients count by their /64 network.
    """

    def __init__(self, limits: EdgeLimits) -> None:
        self._limits = limits
        self._max = min(limits.max_connections, _descriptors() - RESERVED_DESCRIPTORS)
        self._open = 0
        self._of: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        """How many connections, requests and WebSockets each limit has ended, by the name of its setting."""
        self.is_draining = False
        """Whether the server is about to stop: each response closes its connection."""
        self.bad_requests = 0
        """How many requests were no valid HTTP."""
        self._trusts_all = limits.trusted_proxies.strip() == "*"
        self._trusted = () if self._trusts_all else _networks(limits.trusted_proxies)

    def __len__(self) -> int:
        return self._open

    def take(self, address: str | None) -> bool:
        """Count a connection from this address. Returns False where that is one too many."""
        source = source_of(address or "")
        is_full = self._open >= self._max
        if is_full or (self._of[source] >= self._limits.max_connections_per_address and not self._is_trusted(address)):
            self.refusals[MAX_CONNECTIONS if is_full else MAX_CONNECTIONS_PER_ADDRESS] += 1
            if not self._of[source]:
                del self._of[source]
            return False
        self._open += 1
        self._of[source] += 1
        return True

    def give_back(self, address: str | None) -> None:
        """Count a connection as closed that `take` has counted."""
        source = source_of(address or "")
        self._open -= 1
        self._of[source] -= 1
        if not self._of[source]:
            del self._of[source]

    def _is_trusted(self, address: str | None) -> bool:
        if self._trusts_all:
            return True
        try:
            parsed = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


@lru_cache(maxsize=10_000)
def source_of(address: str) -> str:
    """What limits per address count by: an IPv4 address, or the /64 network of an IPv6 one, which is one customer's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def _networks(listed: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    networks = []
    for entry in filter(None, (entry.strip() for entry in listed.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            continue  # a host name or a path, which uvicorn compares as text
    return tuple(networks)


def _descriptors() -> int:
    """The file descriptors that this process may have, after raising its soft limit to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 65_536)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            soft = hard
        except (ValueError, OSError):
            pass
    return soft
