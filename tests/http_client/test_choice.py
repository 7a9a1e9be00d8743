"""Which client is used: our own, unless the operator or a proxy of the environment decides otherwise."""

import asyncio

import pytest

from http_client.scripted_server import Peer, response, serving
from tollkeeper.providers.http.aiohttp_client import AiohttpClient
from tollkeeper.providers.http.base import HttpClient
from tollkeeper.providers.http.choice import HttpOptions, http_options, make_client
from tollkeeper.providers.http.pooled_client import PooledClient
from tollkeeper.settings import Settings

VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def chosen(url: str, options: HttpOptions | None = None) -> type[HttpClient]:
    return type(make_client(url, {}, connect_s=1, options=options or HttpOptions()))


def test_our_own_client_is_used_unless_the_operator_chooses_aiohttp() -> None:
    assert chosen("http://x") is PooledClient
    assert http_options(Settings(_env_file=None)) == HttpOptions()
    chosen_by_operator = http_options(Settings(_env_file=None, http_client="AIOHTTP"))
    assert chosen("http://x", chosen_by_operator) is AiohttpClient


@pytest.mark.parametrize(
    ("variable", "value", "url", "kind"),
    [
        ("HTTP_PROXY", "http://proxy:3128", "http://x/v1", AiohttpClient),
        ("https_proxy", "http://proxy:3128", "https://x/v1", AiohttpClient),
        ("https_proxy", "http://proxy:3128", "http://x/v1", PooledClient),
    ],
)
def test_aiohttp_takes_over_where_a_proxy_applies(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str, kind: type[HttpClient]
) -> None:
    monkeypatch.setenv(variable, value)
    assert chosen(url) is kind
    monkeypatch.setenv("NO_PROXY", "example.com,x")
    assert chosen(url) is PooledClient


async def test_a_request_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []

    async def proxy(peer: Peer) -> None:
        requests.append(await peer.reader.readuntil(b"\r\n\r\n"))
        await peer.send(response(b"through the proxy"))
        await asyncio.sleep(0)

    async with serving(proxy) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        client = make_client("http://provider.invalid/v1", {}, connect_s=5, options=HttpOptions())
        received = await client.post("/x", b"{}")
        assert await received.whole() == b"through the proxy"
        received.close()
        await client.close()
    assert requests[0].startswith(b"POST http://provider.invalid/v1/x HTTP/1.1\r\n")
