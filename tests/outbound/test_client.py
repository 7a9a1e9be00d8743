"""The client for URLs that tenants choose, against hostile names and hostile servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from http_client.test_tls import Chain, issue, pem
from tollkeeper.errors import OutboundFailed, OutboundRefused, Overloaded
from tollkeeper.outbound import client as outbound
from tollkeeper.outbound import exchange
from tollkeeper.outbound.addresses import AddressRule
from tollkeeper.outbound.client import MAX_BODY_BYTES, OutboundClient, OutboundResponse, check_url

LOOPBACK = "127.0.0.0/8"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A resolver whose answers change: each look-up gets the next list of addresses, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Host:
    """A host on loopback that counts its connections."""

    def __init__(self, response: bytes, *, address: str = "127.0.0.1", port: int = 0, stays_open: bool = False) -> None:
        self.response, self.address, self.port, self.connections = response, address, port, 0
        self._stays_open = stays_open
        self._never = asyncio.Event()
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.response)
            await writer.drain()
            if self._stays_open:
                await self._never.wait()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(host: Host, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    server = await asyncio.start_server(host.serve, host.address, host.port, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        host._never.set()
        server.close()
        await server.wait_closed()


async def get(names: Names, port: int, *, networks: str = LOOPBACK, total_s: float = 10.0) -> OutboundResponse:
    client = OutboundClient(networks, resolve=names, total_s=total_s)
    try:
        return await client.get(f"http://idp.example.com:{port}/x", tenant_id=1)
    finally:
        client.close()


def ok(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_response_is_read_whole_and_the_name_is_resolved_once() -> None:
    async with running(Host(ok(b'{"a": 1}'))) as host:
        names = Names(["127.0.0.1"])
        assert await get(names, host.port) == OutboundResponse(200, b'{"a": 1}')
        assert (names.asked, host.connections) == (1, 1)
        assert b"Host: idp.example.com" in host.heads[0]


async def test_a_post_sends_the_body_and_the_headers() -> None:
    async with running(Host(ok(b"done"))) as host:
        client = OutboundClient(LOOPBACK)
        url = f"http://127.0.0.1:{host.port}/token"
        response = await client.post(url, b"code=1", {"Authorization": "Basic x"}, tenant_id=1)
        client.close()
        assert response.body == b"done"
        assert host.heads[0].startswith(b"POST /token HTTP/1.1\r\n")
        assert b"Authorization: Basic x\r\n" in host.heads[0]


async def test_a_name_that_changes_after_the_check_gains_nothing() -> None:
    """DNS rebinding: the connection goes to the address that was checked."""
    async with (
        running(Host(ok(b"secret"), address="127.0.0.2")) as inside,
        running(Host(ok(b"public"), address="127.0.0.3", port=inside.port)) as public,
    ):
        names = Names(["127.0.0.3"], ["127.0.0.2"])
        response = await get(names, public.port, networks="127.0.0.3/32")
        assert (response.body, names.asked, inside.connections) == (b"public", 1, 0)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.3", "127.0.0.2"], ["127.0.0.2", "127.0.0.3"], ["127.0.0.3", "::1"], ["169.254.169.254"]]
)
async def test_a_name_with_one_private_address_is_refused_without_a_connection(addresses: list[str]) -> None:
    async with running(Host(ok(b"public"), address="127.0.0.3")) as public:
        with pytest.raises(OutboundRefused):
            await get(Names(addresses), public.port, networks="127.0.0.3/32")
        assert public.connections == 0


def test_a_socket_to_an_address_that_is_not_allowed_is_not_made() -> None:
    rule = AddressRule("127.0.0.3/32")
    with pytest.raises(OSError, match="not allowed"):
        exchange._make_socket(rule, (2, 1, 6, "", ("127.0.0.1", 443)))
    exchange._make_socket(rule, (2, 1, 6, "", ("127.0.0.3", 443))).close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_returned_and_not_followed(status: int) -> None:
    async with running(Host(ok(b"secret"), address="127.0.0.2")) as inside:
        redirect = b"HTTP/1.1 %d Go\r\nLocation: http://127.0.0.2:%d/\r\nContent-Length: 0\r\n\r\n"
        async with running(Host(redirect % (status, inside.port))) as host:
            assert (await get(Names(["127.0.0.1"]), host.port)).status == status
            assert inside.connections == 0


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (ok(b"x" * (MAX_BODY_BYTES + 1)), "more than"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n",
            "valid HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY_BYTES * 2), "more than"),
        (ok(b"x", b"Content-Encoding: gzip\r\n"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "valid HTTP"),
        (b"SSH-2.0-internal-secret\r\n", "valid HTTP"),
        (b"", "cannot be reached|valid HTTP"),
    ],
    ids=["giant", "cut", "giant without length", "compressed", "giant head", "not HTTP", "nothing"],
)
async def test_a_response_that_is_not_acceptable_fails_and_shows_nothing_of_it(response: bytes, detail: str) -> None:
    async with running(Host(response)) as host:
        with pytest.raises(OutboundFailed, match=detail) as raised:
            await get(Names(["127.0.0.1"]), host.port)
        assert "secret" not in raised.value.detail
        assert "xxx" not in raised.value.detail


async def test_the_largest_body_is_read() -> None:
    async with running(Host(ok(b"x" * MAX_BODY_BYTES))) as host:
        assert len((await get(Names(["127.0.0.1"]), host.port)).body) == MAX_BODY_BYTES


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"], ids=["head", "body"])
async def test_a_host_that_stalls_is_left_after_the_deadline(response: bytes) -> None:
    async with running(Host(response, stays_open=True)) as host:
        with pytest.raises(OutboundFailed, match="within"):
            await get(Names(["127.0.0.1"]), host.port, total_s=0.2)


async def test_a_name_that_stalls_is_left_after_the_deadline() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    client = OutboundClient("", resolve=never, total_s=0.1)
    with pytest.raises(OutboundFailed, match="within"):
        await client.get("https://idp.example.com/", tenant_id=1)
    client.close()


@pytest.mark.parametrize("names", [Names([]), Names([f"127.0.0.{number}" for number in range(1, 30)])])
async def test_a_name_without_an_address_or_with_very_many_fails(names: Names) -> None:
    with pytest.raises(OutboundFailed):
        await get(names, 1)


async def test_http_is_only_for_private_networks_that_are_allowed() -> None:
    client = OutboundClient("", resolve=Names(["1.1.1.1"]))
    with pytest.raises(OutboundRefused, match="https"):
        await client.get("http://idp.example.com/", tenant_id=1)
    client.close()


async def test_nothing_listens_there() -> None:
    async with running(Host(b"")) as host:
        port = host.port
    with pytest.raises(OutboundFailed, match="reached"):
        await get(Names(["127.0.0.1"]), port)


@pytest.mark.parametrize(
    ("name", "trusted"), [("idp.example.com", True), ("idp.example.com", False), ("other.com", True)]
)
async def test_only_a_trusted_certificate_for_the_name_of_the_url_is_accepted(
    tmp_path: Path, name: str, trusted: bool
) -> None:
    root = issue("Root", None, authority=True)
    chain = Chain(tmp_path / "root.pem", root, issue("Middle", root, authority=True))
    chain.ca_file.write_bytes(pem(root))
    async with running(Host(ok(b"done")), chain.server(tmp_path, name)) as host:
        ca_file = chain.ca_file if trusted else None
        client = OutboundClient(LOOPBACK, ca_file=ca_file, resolve=Names(["127.0.0.1"]))
        url = f"https://idp.example.com:{host.port}/"
        if trusted and name == "idp.example.com":
            assert (await client.get(url, tenant_id=1)).body == b"done"
        else:
            with pytest.raises(OutboundFailed, match="certificate"):
                await client.get(url, tenant_id=1)
            assert host.heads == []
        client.close()


async def test_the_system_resolves_names_and_names_that_do_not_exist_fail() -> None:
    client = OutboundClient(LOOPBACK + ",::1/128")
    assert set(await client._look_up("localhost", 80)) & {"127.0.0.1", "::1"}
    with pytest.raises(OutboundFailed, match="no address"):
        await client.get("https://does-not-exist.invalid/", tenant_id=1)
    client.close()


async def test_a_tenant_with_slow_hosts_leaves_room_for_the_requests_of_others() -> None:
    blocked, resolving = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(host: str, port: int) -> list[str]:
        resolving.release()
        await blocked.wait()
        return []

    client = OutboundClient(LOOPBACK, resolve=slow)
    url = "https://slow.example.com/"
    running = [asyncio.create_task(client.get(url, tenant_id=1)) for _ in range(outbound.MAX_CONCURRENT_PER_TENANT)]
    for _ in running:
        await resolving.acquire()
    with pytest.raises(Overloaded):
        await client.get(url, tenant_id=1)
    other = asyncio.create_task(client.get(url, tenant_id=2))
    await resolving.acquire()
    blocked.set()
    results = await asyncio.gather(*running, other, return_exceptions=True)
    assert {type(result) for result in results} == {OutboundFailed}
    with pytest.raises(OutboundFailed):
        await client.get(url, tenant_id=1)
    client.close()


async def test_too_many_requests_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_CONCURRENT", 0)
    with pytest.raises(Overloaded):
        await get(Names(["127.0.0.1"]), 1)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://idp.example.com/",
        "file:///etc/passwd",
        "idp.example.com",
        "https://",
        "https://user@idp.example.com/",
        "https://user:secret@idp.example.com/",
        "https://idp.example.com/#part",
        "https://idp.example.com\\@127.0.0.1/",
        "https://idp.exämple.com/",
        "https://idp.example.com/a b",
        "https://idp.example.com:99999/",
        "https://[::1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://0177.0.0.01/",
        "https://1.1.1.1.1./",
        "https://idp.example.com/" + "x" * 2_000,
    ],
)
def test_a_url_in_another_form_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused):
        check_url(url)


@pytest.mark.parametrize("url", ["https://idp.example.com", "https://idp.example.com:8443/a?b=c", "http://[fd00::1]/"])
def test_a_usual_url_is_accepted(url: str) -> None:
    assert check_url(url).raw_host
