"""Images in a request: an `https:` URL, or a `data:` URL with the image in it.

Other URLs are refused: they could point into the provider's own network, and other data has no bound in tokens.
"""

import re
import unicodedata

from tollkeeper.dialects.parameters import unsupported
from tollkeeper.errors import InvalidRequest

HTTPS_PREFIX, DATA_PREFIX = "https://", "data:image/"
NOT_PUBLIC = "the address must name a public host, by a domain name, without user info, and with port 443 if any"
MAX_HOST_LENGTH = 253
"""Of a domain name, in characters (RFC 1035, 2.3.4)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY_END = re.compile(r"[/?#]")
_DOMAIN_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")
_PRIVATE_NAME = re.compile(r"(.+\.)?(localhost|local|internal|home\.arpa)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def data_bytes(url: str) -> int:
    """The size of the data in a `data:` URL, in bytes as sent; 0 for a URL without data."""
    comma = url.find(",")
    return len(url) - comma - 1 if comma >= 0 else 0


def inline_image_bytes(url: str, parameter: str) -> int:
    """The size of the image data in the URL, in bytes as sent (base64); 0 for an `https:` URL.

    Raises UnsupportedParameter for any other URL, and InvalidRequest for an `https:` URL whose host is not public. Both
    name `parameter`.
    """
    if url.startswith(DATA_PREFIX):
        return data_bytes(url)
    if not url.startswith(HTTPS_PREFIX):
        raise unsupported(parameter)
    if not names_public_host(url):
        raise InvalidRequest(f"{parameter}: {NOT_PUBLIC}.", parameter=parameter)
    return 0


def names_public_host(url: str) -> bool:
    """Whether an `https:` URL names its host by a domain name that is not reserved for private networks.

    An address in any notation, user info and a port other than 443 are refused, and so is what parsers of URLs read
    differently: percent-encoding, backslashes and controls. The name is not resolved: the provider fetches the image.
    """
    authority = _AUTHORITY_END.split(url.removeprefix(HTTPS_PREFIX), maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    if (colon and port not in ("", "443")) or len(host) > MAX_HOST_LENGTH or _CONTROL.search(url):
        return False
    name = unicodedata.normalize("NFKC", host).replace("\N{IDEOGRAPHIC FULL STOP}", ".")
    try:
        encoded = name.encode("idna").decode().lower()
    except UnicodeError:
        return False
    if not _DOMAIN_NAME.fullmatch(encoded.removesuffix(".")):
        return False
    seen_by_others = "".join(character for character in name if character.isascii())  # some parsers drop the rest
    return not any(map(_is_private, (encoded, seen_by_others.lower())))


def _is_private(host: str) -> bool:
    """Whether a host is a private name, or an IPv4 address, whose last part is a number (WHATWG URL, 3.5)."""
    host = host.removesuffix(".")
    return bool(_PRIVATE_NAME.fullmatch(host) or _NUMBER.fullmatch(host.rpartition(".")[2]))
