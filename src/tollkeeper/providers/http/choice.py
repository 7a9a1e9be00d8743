"""Chooses the HTTP client of a provider: our own, or aiohttp where a proxy of the environment applies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.http.base import ConnectFailed, HttpClient
from tollkeeper.providers.http.connector import tls_context
from tollkeeper.providers.http.pooled_client import PooledClient
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`use_aiohttp`: for all requests. `ca_file`: certificates that are trusted beside the system's.
    `correlation_header`: the header with the id of the caller's request; None sends none.
    """

    use_aiohttp: bool = False
    ca_file: Path | None = None
    correlation_header: str | None = "X-Client-Request-Id"


def http_options(settings: Settings) -> HttpOptions:
    """The options that the operator has set. Raises ConfigurationError for a file without certificates."""
    if settings.ca_file is not None:
        try:
            tls_context(settings.ca_file)
        except OSError as error:
            raise ConfigurationError(
                f"TOLLKEEPER_CA_FILE cannot be used: {error.strerror or error}. Set it to a file of certificates in PEM"
                " format, or unset it."
            ) from None
    header = settings.provider_correlation_header
    return HttpOptions(settings.http_client == "aiohttp", settings.ca_file, None if header == "none" else header)


def make_client(base_url: str, headers: Mapping[str, str], *, connect_s: float, options: HttpOptions) -> HttpClient:
    """The client for requests to `base_url`. Raises ConnectFailed for a URL or a header that cannot be sent."""
    proxy = _proxy_of(base_url)
    if options.use_aiohttp or proxy is not None:
        from tollkeeper.providers.http.aiohttp_client import AiohttpClient  # not needed otherwise, and large

        return AiohttpClient(base_url, headers, connect_s=connect_s, ca_file=options.ca_file, proxy=proxy)
    try:
        return PooledClient(base_url, headers, connect_s=connect_s, ca_file=options.ca_file)
    except ValueError as error:
        raise ConnectFailed(str(error)) from error


def _proxy_of(base_url: str) -> str | None:
    """The URL of the proxy for requests to this URL, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY; None without one."""
    try:
        url = urlsplit(base_url)
        host, port = url.hostname or "", url.port
    except ValueError:
        return None
    proxy = getproxies().get(url.scheme)
    if proxy is None or proxy_bypass(host if port is None else f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
