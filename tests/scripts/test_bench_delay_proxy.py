"""The bench's proxy delays everything by the same time, and changes nothing else."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from bench.delay_proxy import Direction, start_proxy
from support import virtual_time

pytestmark = pytest.mark.exhaustive

DELAY_S = 0.0015


class RecordingTransport:
    """Records what is written, and when."""

    def __init__(self) -> None:
        self.written: list[tuple[float, bytes]] = []
        self.closed_at: float | None = None

    def write(self, data: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), data))

    def close(self) -> None:
        self.closed_at = asyncio.get_running_loop().time()


def connected_direction() -> tuple[Direction, RecordingTransport]:
    direction, transport = Direction(DELAY_S), RecordingTransport()
    direction.destination = cast(asyncio.WriteTransport, transport)
    return direction, transport


def test_data_that_follows_other_data_is_delayed_from_its_own_arrival() -> None:
    async def scenario() -> None:
        direction, transport = connected_direction()
        for part in (b"first", b"second", b"third"):
            direction.data_received(part)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        assert [data for _, data in transport.written] == [b"first", b"second", b"third"]
        assert [time for time, _ in transport.written] == pytest.approx([0.0015, 0.0025, 0.0035])

    virtual_time.run(scenario())


def test_the_end_of_a_connection_is_delayed_and_follows_the_data() -> None:
    async def scenario() -> None:
        direction, transport = connected_direction()
        direction.data_received(b"last")
        direction.connection_lost(None)
        await asyncio.sleep(1)
        ((written_at, data),) = transport.written
        assert data == b"last"
        assert written_at == pytest.approx(DELAY_S)
        assert transport.closed_at == pytest.approx(DELAY_S)

    virtual_time.run(scenario())


async def test_what_two_sides_send_arrives_whole_and_in_order(tmp_path: Path) -> None:
    disconnected = asyncio.Event()
    parts = [bytes([number]) * (number * 500) for number in range(1, 50)]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1_000):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        disconnected.set()

    server = await asyncio.start_unix_server(echo, tmp_path / "socket")
    proxy = await start_proxy(0, str(tmp_path / "socket"), DELAY_S)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.sockets[0].getsockname()[1])
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
    assert await reader.readexactly(sum(map(len, parts))) == b"".join(parts)
    writer.close()
    await writer.wait_closed()
    await disconnected.wait()
    proxy.close()
    server.close()


async def test_a_client_is_disconnected_when_the_server_is_not_there(tmp_path: Path) -> None:
    proxy = await start_proxy(0, str(tmp_path / "absent"), DELAY_S)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.sockets[0].getsockname()[1])
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    proxy.close()
