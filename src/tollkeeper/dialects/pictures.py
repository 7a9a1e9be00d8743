"""Pictures in a request: each by its address, or sent along as a `data:` URL.

It is the provider who fetches, and that may be a server of one's own, which reaches what callers must not. What stands
inside its network seldom shows a certificate, but it speaks plain HTTP, as clouds do of their machines' secrets. So
`http:` leads to hosts only that look public. Where a name leads in truth, only who fetches can see.
"""

import re
from ipaddress import AddressValueError, IPv4Address

from tollkeeper.dialects.parameters import refusal

SECURE, SENT_ALONG = "https://", "data:image/"

_PLAIN = re.compile(r"http://([A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?#]|\Z)")
_INNER = frozenset({"localhost", "local", "internal", "intranet", "private", "corp", "home", "lan", "arpa"})
"""Names end so that are nobody's on the internet (RFC 6761, RFC 6762, RFC 8375, and those that ICANN keeps back)."""


def bytes_sent(url: str, parameter: str) -> int:
    """How much of a URL is the picture itself. Raises UnsupportedParameter, naming the parameter, for no picture."""
    if url.startswith(SENT_ALONG):
        return len(url.partition(",")[2])
    if not url.startswith(SECURE) and not _looks_public(url):
        raise refusal(parameter)
    return 0


def _looks_public(url: str) -> bool:
    """Whether it is plain HTTP to a name with a dot, or to an address of the internet."""
    if (found := _PLAIN.match(url)) is None:
        return False
    host = found[1].lower()
    try:
        return IPv4Address(host).is_global
    except AddressValueError:
        rest, _, last = host.removesuffix(".").rpartition(".")
        return bool(rest) and last[:1].isalpha() and last not in _INNER
