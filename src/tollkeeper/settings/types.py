"""The types of settings that are more than a number or a text, and how their values are checked."""

import re
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator

from tollkeeper.printable import require_printable

MIB = 1024 * 1024
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_RESERVED_HEADERS = frozenset({"authorization", "content-type", "content-length", "host", "traceparent", "x-api-key"})
_ORIGIN = re.compile(r"https?://[^/\s*?#@]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(:[0-9]{1,5})?")


def _check_database_url(url: str) -> str:
    """Check the URL of a database, without showing any of it: it can have a password."""
    if url.startswith("sqlite:///"):
        return url
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    where = "must look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %23 for # in a password, and %2F for /"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(where) from None
    if not all(_HOST.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")):
        raise ValueError(where)
    if "channel_binding" in parse_qs(parts.query):
        raise ValueError("has channel_binding, which the driver does not know: leave it out, and keep sslmode")
    return url


def _check_rate_limit(notation: str) -> str:
    """Check a limit in the notation of `limits`: "600/minute", "10/second;1000/hour", or "off"."""
    if notation.strip().lower() == "off":
        return "off"
    from limits import parse as parse_limit  # a command with the default limits, which are not checked, needs none

    for part in notation.split(";"):
        try:
            parse_limit(part)
        except ValueError:
            raise ValueError('must look like "600/minute" or "off"') from None
    return notation


def _normalize_origins(listed: str) -> str:
    """Check origins, separated by commas. Returns them in the form in which browsers send them (RFC 6454, 6.2)."""
    origins = [origin.strip().rstrip("/").lower() for origin in listed.split(",") if origin.strip()]
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("must be origins like https://app.example.com, separated by commas")
    return ",".join(origins)


def _check_networks(listed: str) -> str:
    """Check networks, separated by commas. Returns them without spaces."""
    networks = [network.strip() for network in listed.split(",") if network.strip()]
    try:
        return ",".join(str(ip_network(network)) for network in networks)
    except ValueError:
        raise ValueError("must be networks like 10.0.0.0/8, separated by commas") from None


def _require_base_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s@?#]+", url):
        raise ValueError("must begin with http:// or https://, and have no user, query or fragment")
    return url


def _check_header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED_HEADERS:
        raise ValueError("must be the name of a header that providers do not need otherwise, or none")
    return "none" if name.lower() == "none" else name


def _refuse_kubernetes_port(value: object) -> object:
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "must be a whole number. Kubernetes sets this variable for a service named tollkeeper: give the service"
            " another name, or set enableServiceLinks to false in the pod"
        )
    return value


SqlUrl = Annotated[str, AfterValidator(_check_database_url)]
RateLimit = Annotated[str, AfterValidator(_check_rate_limit)]
Origins = Annotated[str, AfterValidator(_normalize_origins)]
Networks = Annotated[str, AfterValidator(_check_networks)]
ModelName = Annotated[str, AfterValidator(require_printable)]
HeaderName = Annotated[str, AfterValidator(_check_header_name)]
BaseUrl = Annotated[str, AfterValidator(_require_base_url)]
Port = Annotated[int, BeforeValidator(_refuse_kubernetes_port)]
