"""What an API key is limited to: models, surfaces, and the addresses of its clients."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tollkeeper.errors import Forbidden, InvalidRequest

SURFACES = (
    "query",
    "stream",
    "chat",
    "ws",
    "estimate",
    "sessions",
    "jobs",
    "documents",
    "search",
    "chat/completions",
    "completions",
    "responses",
    "embeddings",
    "messages",
    "batches",
)
"""What a key can be limited to: the paths below `/ai/` and `/v1/`. Every key may list the models it may use."""
MAX_LIST_LENGTH = 50
MAX_MODEL_LENGTH = 200
MAX_NETWORK_LENGTH = 49
NAMES_IN_SENTENCE = 10

_COUNTED_AS = {"messages/count_tokens": "messages", "responses/input_tokens": "responses"}
"""Counting the tokens of an input belongs to the surface whose input it is."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one key; None is no limit. `networks` are addresses with a prefix length (CIDR, RFC 4632)."""

    models: tuple[str, ...] | None = None
    surfaces: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None

    def require_surface(self, surface: str) -> None:
        """Raises Forbidden unless the key may be used on this surface."""
        if self.surfaces is not None and _COUNTED_AS.get(surface, surface) not in self.surfaces:
            raise Forbidden(f"This API key does not allow this endpoint: its surfaces are {_enumerate(self.surfaces)}.")

    def require_address(self, address: str) -> None:
        """Raises Forbidden unless the key may be used from this address. The error does not tell which ones may."""
        if self.networks is None:
            return
        client = _parse_address(address)
        if client is None or not any(
            client.version == network.version and client in network for network in _parse_networks(self.networks)
        ):
            raise Forbidden("This API key does not allow the address that this request comes from.")

    def model_refusal(self) -> Forbidden:
        """The error for a model that the key may not use."""
        return Forbidden(f"This API key does not allow this model: its models are {_enumerate(self.models or ())}.")


NO_LIMITS = KeyLimits()


def make_limits(
    models: Iterable[str] | None = None, surfaces: Iterable[str] | None = None, networks: Iterable[str] | None = None
) -> KeyLimits:
    """The limits of these names, each once, and networks in their canonical form. Raises InvalidRequest."""
    return KeyLimits(
        models=_checked("models", models, _check_model),
        surfaces=_checked("surfaces", surfaces, _check_surface),
        networks=_checked("networks", networks, _check_network),
    )


def _checked(field: str, names: Iterable[str] | None, check: Callable[[str], str]) -> tuple[str, ...] | None:
    if names is None:
        return None
    given = list(names)
    if not 0 < len(given) <= MAX_LIST_LENGTH:
        raise InvalidRequest(f"{field} has 1 to {MAX_LIST_LENGTH} entries. Leave it out for a key without this limit.")
    return tuple(dict.fromkeys(map(check, given)))


def _check_model(name: str) -> str:
    if not 0 < len(name) <= MAX_MODEL_LENGTH or not name.isprintable() or name != name.strip():
        raise InvalidRequest(f"models: a model's name has 1 to {MAX_MODEL_LENGTH} printable characters.")
    return name


def _check_surface(name: str) -> str:
    if name not in SURFACES:
        raise InvalidRequest(f"surfaces: choose among {', '.join(SURFACES)}.")
    return name


def _check_network(text: str) -> str:
    try:
        network = _parse_network(text) if len(text) <= MAX_NETWORK_LENGTH else None
    except ValueError:
        network = None
    if network is None:
        raise InvalidRequest(
            "networks: an entry is an address or a network in CIDR form, such as 192.0.2.0/24 or 2001:db8::/32,"
            " without bits set after the prefix."
        )
    return str(network)


def _parse_network(text: str) -> Network:
    """A mapped IPv6 network (RFC 4291, 2.5.5.2) is the IPv4 network in it. Raises ValueError."""
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


@lru_cache(maxsize=1_000)
def _parse_networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(_parse_network, texts))


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a client, without a zone; that in a mapped IPv6 address. None for anything else."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _enumerate(names: Sequence[str]) -> str:
    further = len(names) - NAMES_IN_SENTENCE
    shown = ", ".join(names[:NAMES_IN_SENTENCE])
    return f"{shown} and {further} more" if further > 0 else shown
