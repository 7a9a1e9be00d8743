"""What the headers of a request say about the response cache."""

from collections.abc import Iterable
from dataclasses import replace

from tollkeeper.api.exchange import Exchange
from tollkeeper.errors import InvalidRequest

HEADER = b"x-tollkeeper-cache"
_CONTROL = b"cache-control"
_NAMES = frozenset((HEADER, _CONTROL))
_CHOICES = {b"true": True, b"false": False}


def choose_cache(exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Note in the exchange's call what the headers choose: whatever turns the cache off has precedence.

    Raises InvalidRequest.
    """
    for name, value in headers:
        if name not in _NAMES:
            continue
        chosen = _choice_of(name, value)
        if chosen is False or (chosen and exchange.call.cache is None):
            exchange.call = replace(exchange.call, cache=chosen)


def _choice_of(name: bytes, value: bytes) -> bool | None:
    value = value.lower()
    if name == _CONTROL:
        return False if b"no-store" in (part.strip() for part in value.split(b",")) else None
    if value not in _CHOICES:
        raise InvalidRequest("X-Tollkeeper-Cache is true or false.")
    return _CHOICES[value]
