"""Which client is used: our own, unless the operator or a proxy of the environment decides otherwise."""

import asyncio
from pathlib import Path

import pytest

from http_client.scripted_server import Peer, echo, response, serving
from tollkeeper.providers.http.aiohttp_client import AiohttpClient
from tollkeeper.providers.http.base import ConnectFailed, HttpClient
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


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 407 No\r\n\r\n", b""]
)
async def test_what_a_proxy_refuses_has_not_reached_the_provider(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async def proxy(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer)

    async with serving(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{server.port}")
        client = make_client("https://provider.invalid/v1", {}, connect_s=5, options=HttpOptions())
        with pytest.raises(ConnectFailed) as raised:
            await client.post("/x", b"{}")
        await client.close()
    assert raised.value.__cause__ is None


async def test_credentials_of_the_home_folder_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login stranger password stranger\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with serving(echo) as server:
        client = make_client(server.url, {"Authorization": "Bearer k"}, connect_s=5, options=HttpOptions(True))
        assert await (await client.post("/x", b"{}")).whole() == b"{}"
        await client.close()


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
