"""Whoever listens over HTTP: what is sent to them and when, and what happens when they hang up."""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Message

from tollkeeper.api.sse_listener import SseListener
from tollkeeper.chat import TextDelta
from tollkeeper.dialects.sse import PING
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES


@dataclass
class Line:
    """A connection: `leave` hangs up on it, `blocked` keeps what is sent from getting through."""

    sent: list[Message] = field(default_factory=list)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    blocked: asyncio.Event | None = None

    async def receive(self) -> Message:
        await self.leave.wait()
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
    def over(self) -> bool:
        return self.sent[-1].get("more_body") is False


@dataclass
class Held:
    """As much of a reservation as the listener looks at."""

    charge_id: str = "chg_1"
    balances: tuple[()] = ()

    @property
    def hold(self) -> "Held":
        return self


@dataclass
class Cut:
    """Counts how often the listener was told to be gone."""

    times: int = 0

    def __call__(self) -> None:
        self.times += 1


def say(piece: StreamChunk) -> bytes:
    return piece.raw


def piece(raw: bytes) -> StreamChunk:
    return StreamChunk(raw, (TextDelta("x"),))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def listening(line: Line, *, keeps: bool = False) -> SseListener:
    return SseListener(say, line.receive, line.send, record=keeps)


async def test_nothing_is_sent_before_there_is_something_to_be_heard() -> None:
    line = Line()
    with listening(line) as listener:
        listener.attach(Cut(), Held())  # type: ignore[arg-type]
        await listener.deliver(piece(b""))
        assert (line.sent, listener.begun) == ([], False)
        await listener.deliver(piece(b"one"))
        await listener.deliver(piece(b"two"))
        assert (line.starts, line.body, line.over) == (1, b"onetwo", False)
        await listener.finish(b"end")
    assert (line.starts, line.body, line.over) == (1, b"onetwoend", True)


async def test_the_head_names_the_charge_and_forbids_to_hold_back() -> None:
    line = Line()
    with listening(line) as listener:
        listener.attach(Cut(), Held())  # type: ignore[arg-type]
        await listener.finish(b"")
    headers = dict(line.sent[0]["headers"])
    assert (line.sent[0]["status"], headers[b"x-charge-id"]) == (200, b"chg_1")
    assert (headers[b"content-type"], headers[b"x-accel-buffering"]) == (b"text/event-stream", b"no")


async def test_what_ends_before_it_was_attached_has_a_head_all_the_same() -> None:
    line = Line()
    with listening(line) as listener:
        await listener.finish(b"end")
    assert (line.starts, line.body) == (1, b"end")


async def test_a_ping_begins_the_answer_and_is_not_kept() -> None:
    line = Line()
    with listening(line, keeps=True) as listener:
        listener.ping()
        await settled()
        await listener.deliver(piece(b"one"))
        assert (line.starts, line.body, listener.recorded) == (1, PING + b"one", b"one")


async def test_an_answer_that_begins_with_a_ping_names_the_charge_of_then() -> None:
    line = Line()
    with listening(line) as listener:
        listener.attach(Cut(), Held())  # type: ignore[arg-type]
        listener.ping()
        await settled()
        await listener.deliver(piece(b"one"))
    headers = dict(line.sent[0]["headers"])
    assert (line.body, headers[b"content-type"]) == (PING + b"one", b"text/event-stream")
    assert headers[b"x-charge-id"] == b"chg_1"


async def test_a_ping_within_an_answer_takes_nothing_from_its_head() -> None:
    line = Line()
    with listening(line) as listener:
        listener.attach(Cut(), Held())  # type: ignore[arg-type]
        await listener.deliver(piece(b"one"))
        listener.ping()
        await settled()
    assert dict(line.sent[0]["headers"])[b"x-charge-id"] == b"chg_1"


async def test_what_is_too_long_to_be_kept_is_let_go_at_once_and_goes_out_all_the_same() -> None:
    line = Line()
    with listening(line, keeps=True) as listener:
        await listener.deliver(piece(b"x" * MAX_STORED_BYTES))
        assert listener.recorded == b"x" * MAX_STORED_BYTES
        for raw in (b"y", b"z"):
            await listener.deliver(piece(raw))
            assert [listener.recorded, *listener._recorded._sent] == [None]
    assert line.body == b"x" * MAX_STORED_BYTES + b"yz"


async def test_only_what_is_to_be_kept_is_kept() -> None:
    for keeps, kept in ((True, b"onetwo"), (False, b"")):
        with listening(Line(), keeps=keeps) as listener:
            for raw in (b"one", b"", b"two"):
                await listener.deliver(piece(raw))
            assert listener.recorded == kept


async def test_whoever_hangs_up_is_noticed_at_once() -> None:
    line, cut = Line(), Cut()
    with listening(line) as listener:
        listener.attach(cut, Held())  # type: ignore[arg-type]
        await settled()
        assert cut.times == 0
        line.leave.set()
        await settled()
        assert cut.times == 1


async def test_whoever_was_gone_at_one_attempt_is_gone_at_the_next() -> None:
    line, first, second = Line(), Cut(), Cut()
    with listening(line) as listener:
        listener.attach(first, Held())  # type: ignore[arg-type]
        line.leave.set()
        await settled()
        listener.attach(second, Held())  # type: ignore[arg-type]
        assert second.times == 0, "the relay is not ready to be cut by itself"
        await settled()
    assert (first.times, second.times) == (1, 1)


async def test_at_another_attempt_that_one_is_cut() -> None:
    line, first, second = Line(), Cut(), Cut()
    with listening(line) as listener:
        for cut in (first, second):
            listener.attach(cut, Held())  # type: ignore[arg-type]
        await settled()
        line.leave.set()
        await settled()
    assert (first.times, second.times) == (0, 1)


async def test_after_the_end_nobody_is_told_and_nothing_goes_on() -> None:
    line, cut = Line(), Cut()
    before = asyncio.all_tasks()
    with listening(line) as listener:
        listener.attach(cut, Held())  # type: ignore[arg-type]
        await listener.deliver(piece(b"one"))
        line.blocked = asyncio.Event()
        listener.ping()
        await settled()
    line.leave.set()
    await settled()
    assert (cut.times, line.body) == (0, b"one")
    assert asyncio.all_tasks() == before
