"""SseListener: what is sent to the client and when, and what happens when the client disconnects."""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Message

from tollkeeper.api.formats import charge_headers
from tollkeeper.api.sse_listener import SseListener
from tollkeeper.chat import TextDelta
from tollkeeper.dialects.sse import PING
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES


@dataclass
class FakeClient:
    """The ASGI side of a client. Setting `disconnect` disconnects it; `blocked` delays what is sent until it is set."""

    sent: list[Message] = field(default_factory=list)
    disconnect: asyncio.Event = field(default_factory=asyncio.Event)
    blocked: asyncio.Event | None = None

    async def receive(self) -> Message:
        await self.disconnect.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.blocked is not None:
            await self.blocked.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def starts(self) -> int:
        return sum(message["type"] == "http.response.start" for message in self.sent)

    @property
    def is_complete(self) -> bool:
        return self.sent[-1].get("more_body") is False


@dataclass
class FakeReservation:
    """The part of a reservation that the listener reads."""

    charge_id: str = "chg_1"
    balances: tuple[()] = ()
    would_refuse: tuple[()] = ()
    fallback_for: None = None

    @property
    def hold(self) -> "FakeReservation":
        return self


@dataclass
class DisconnectCounter:
    """Counts the calls of `on_disconnect`."""

    count: int = 0

    def __call__(self) -> None:
        self.count += 1


def render_chunk(chunk: StreamChunk) -> bytes:
    return chunk.raw


def make_chunk(raw: bytes) -> StreamChunk:
    return StreamChunk(raw, (TextDelta("x"),))


async def run_tasks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def make_listener(client: FakeClient, *, record: bool = False) -> SseListener:
    return SseListener(render_chunk, client.receive, client.send, charge_headers, record=record)


async def test_nothing_is_sent_before_the_first_chunk_with_content() -> None:
    client = FakeClient()
    with make_listener(client) as listener:
        listener.attach(DisconnectCounter(), FakeReservation())  # type: ignore[arg-type]
        await listener.deliver(make_chunk(b""))
        assert (client.sent, listener.begun) == ([], False)
        await listener.deliver(make_chunk(b"one"))
        await listener.deliver(make_chunk(b"two"))
        assert (client.starts, client.body, client.is_complete) == (1, b"onetwo", False)
        await listener.finish(b"end")
    assert (client.starts, client.body, client.is_complete) == (1, b"onetwoend", True)


async def test_the_headers_name_the_charge_and_disable_buffering() -> None:
    client = FakeClient()
    with make_listener(client) as listener:
        listener.attach(DisconnectCounter(), FakeReservation())  # type: ignore[arg-type]
        await listener.finish(b"")
    headers = dict(client.sent[0]["headers"])
    assert (client.sent[0]["status"], headers[b"x-charge-id"]) == (200, b"chg_1")
    assert (headers[b"content-type"], headers[b"x-accel-buffering"]) == (b"text/event-stream", b"no")


async def test_a_response_that_ends_before_a_call_is_attached_has_headers() -> None:
    client = FakeClient()
    with make_listener(client) as listener:
        await listener.finish(b"end")
    assert (client.starts, client.body) == (1, b"end")


async def test_a_ping_begins_the_response_and_is_not_recorded() -> None:
    client = FakeClient()
    with make_listener(client, record=True) as listener:
        listener.ping()
        await run_tasks()
        await listener.deliver(make_chunk(b"one"))
        assert (client.starts, client.body, listener.recorded) == (1, PING + b"one", b"one")


async def test_a_response_that_begins_with_a_ping_names_the_charge_of_that_attempt() -> None:
    client = FakeClient()
    with make_listener(client) as listener:
        listener.attach(DisconnectCounter(), FakeReservation())  # type: ignore[arg-type]
        listener.ping()
        await run_tasks()
        await listener.deliver(make_chunk(b"one"))
    headers = dict(client.sent[0]["headers"])
    assert (client.body, headers[b"content-type"]) == (PING + b"one", b"text/event-stream")
    assert headers[b"x-charge-id"] == b"chg_1"


async def test_a_ping_after_the_first_chunk_leaves_the_headers_unchanged() -> None:
    client = FakeClient()
    with make_listener(client) as listener:
        listener.attach(DisconnectCounter(), FakeReservation())  # type: ignore[arg-type]
        await listener.deliver(make_chunk(b"one"))
        listener.ping()
        await run_tasks()
    assert dict(client.sent[0]["headers"])[b"x-charge-id"] == b"chg_1"


async def test_a_response_too_long_to_be_stored_is_sent_but_its_record_is_dropped() -> None:
    client = FakeClient()
    with make_listener(client, record=True) as listener:
        await listener.deliver(make_chunk(b"x" * MAX_STORED_BYTES))
        assert listener.recorded == b"x" * MAX_STORED_BYTES
        for raw in (b"y", b"z"):
            await listener.deliver(make_chunk(raw))
            assert [listener.recorded, *listener._recorded._sent] == [None]
    assert client.body == b"x" * MAX_STORED_BYTES + b"yz"


async def test_a_response_is_recorded_only_if_requested() -> None:
    for record, expected in ((True, b"onetwo"), (False, b"")):
        with make_listener(FakeClient(), record=record) as listener:
            for raw in (b"one", b"", b"two"):
                await listener.deliver(make_chunk(raw))
            assert listener.recorded == expected


async def test_a_disconnect_is_noticed_at_once() -> None:
    client, on_disconnect = FakeClient(), DisconnectCounter()
    with make_listener(client) as listener:
        listener.attach(on_disconnect, FakeReservation())  # type: ignore[arg-type]
        await run_tasks()
        assert on_disconnect.count == 0
        client.disconnect.set()
        await run_tasks()
        assert on_disconnect.count == 1


async def test_an_attempt_that_begins_after_the_disconnect_is_notified_too() -> None:
    client, first, second = FakeClient(), DisconnectCounter(), DisconnectCounter()
    with make_listener(client) as listener:
        listener.attach(first, FakeReservation())  # type: ignore[arg-type]
        client.disconnect.set()
        await run_tasks()
        listener.attach(second, FakeReservation())  # type: ignore[arg-type]
        assert second.count == 0, "the relay is not ready for it during attach"
        await run_tasks()
    assert (first.count, second.count) == (1, 1)


async def test_a_disconnect_notifies_only_the_latest_attempt() -> None:
    client, first, second = FakeClient(), DisconnectCounter(), DisconnectCounter()
    with make_listener(client) as listener:
        for on_disconnect in (first, second):
            listener.attach(on_disconnect, FakeReservation())  # type: ignore[arg-type]
        await run_tasks()
        client.disconnect.set()
        await run_tasks()
    assert (first.count, second.count) == (0, 1)


async def test_after_the_end_no_disconnect_is_reported_and_no_task_is_left() -> None:
    client, on_disconnect = FakeClient(), DisconnectCounter()
    before = asyncio.all_tasks()
    with make_listener(client) as listener:
        listener.attach(on_disconnect, FakeReservation())  # type: ignore[arg-type]
        await listener.deliver(make_chunk(b"one"))
        client.blocked = asyncio.Event()
        listener.ping()
        await run_tasks()
    client.disconnect.set()
    await run_tasks()
    assert (on_disconnect.count, client.body) == (0, b"one")
    assert asyncio.all_tasks() == before
