"""A gateway on a real ledger, in front of a provider that does as it is told, and someone who listens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlmodel import select

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_principal, make_store, set_limit, user_quota
from tollkeeper.chat import ChatRequest, Completion, Finish, Message, Price, TextDelta, Usage
from tollkeeper.clock import Clock
from tollkeeper.db import Database
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, Model, PreparedCall, StreamChunk
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Charge, Window
from tollkeeper.quota.rules.operations import Replayed

BODY_BYTES, INPUT_TOKENS = 1000, 50
INPUT_BOUND, EXACT_INPUT_BOUND = BODY_BYTES + 8 + 64, INPUT_TOKENS + 8 + 64
USAGE = Usage(40, 10)
PRICE = Price(1_000_000, 500_000, 2_000_000)
ONE_MESSAGE = InputSize(1)

Step = StreamChunk | Exception | asyncio.Event | Callable[[], object]
"""What a stream does next: bring a piece, fail, wait until something is set, or do something."""


def text(said: str) -> StreamChunk:
    return StreamChunk(said.encode(), (TextDelta(said),))


def final_chunks(usage: Usage | None = USAGE, reason: str = "stop") -> list[StreamChunk]:
    """What ends a whole stream."""
    report = (usage,) if usage is not None else ()
    return [StreamChunk(b"<finish>", (Finish(reason),)), StreamChunk(b"<usage>", report, last=True)]


@dataclass
class FakeProvider:
    """A character of its answers is a token. Each call takes the next of `answers` or `streams`, the last one again
    and again, and is kept with its limit in `asked`; `hung_up` counts the streams that were left before their end. A
    whole answer waits at the `gate`, if there is one; `asking` is set as soon as anything is asked.
    """

    name: str = "fake"
    answers: list[Completion | Exception] = field(default_factory=lambda: [Completion("yes", "stop", USAGE)])
    streams: list[Sequence[Step]] = field(default_factory=lambda: [[text("yes"), *final_chunks()]])
    input_size: InputSize = ONE_MESSAGE
    thinks: bool = False
    has_tokenizer: bool = True
    prepare_error: Exception | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    counted: int = 0
    hung_up: int = 0
    gate: asyncio.Event | None = None
    asking: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def limits(self) -> list[int]:
        return [limit for _, limit in self.calls]

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if self.prepare_error is not None:
            raise self.prepare_error
        return PreparedCall(model, b"x" * BODY_BYTES, b"", self.input_size, lambda: (), thinks=self.thinks)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        self.calls.append((prepared.model.name, max_output))
        self.called.set()
        if self.answer_gate is not None:
            await self.answer_gate.wait()
        answer = self.completions.pop(0) if len(self.completions) > 1 else self.completions[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        self.calls.append((prepared.model.name, max_output))
        self.called.set()
        steps = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        whole = False
        try:
            for step in steps:
                match step:
                    case Exception():
                        whole = True
                        raise step
                    case asyncio.Event():
                        await step.wait()
                    case StreamChunk():
                        yield step
                    case _:
                        step()
            whole = True
        finally:
            self.unfinished_streams += not whole

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return await self.count_input(prepared) if self.has_tokenizer else None

    async def count_input(self, prepared: PreparedCall) -> int:
        self.input_counts += 1
        return INPUT_TOKENS

    async def count_output(self, text: str) -> int:
        return len(text)

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class RecordingListener:
    """Someone who listens. `heard` is everything that was delivered; `deaf` stops it from being taken."""

    heard: list[StreamChunk] = field(default_factory=list)
    pings: int = 0
    attached: int = 0
    blocked_by: asyncio.Event | None = None
    left: bool = False
    hang_up: Callable[[], None] = lambda: None
    reservation: Reservation | None = None

    def attach(self, hang_up: Callable[[], None], reservation: Reservation) -> None:
        self.attached += 1
        self.on_disconnect, self.reservation = hang_up, reservation
        if self.left:
            asyncio.get_running_loop().call_soon(hang_up)

    async def deliver(self, piece: StreamChunk) -> None:
        self.chunks.append(piece)
        if self.deaf is not None:
            await self.deaf.wait()

    def ping(self) -> None:
        self.pings += 1

    def leave_soon(self) -> None:
        """To be called by the provider: the listener leaves as soon as it waits."""
        self.left = True
        asyncio.get_running_loop().call_soon(self.on_disconnect)

    @property
    def said(self) -> bytes:
        return b"".join(piece.raw for piece in self.chunks)


@dataclass
class GatewayUnderTest:
    """A gateway, and what it is made of. Change `models` before the first call."""

    gateway: Gateway
    ledger: Ledger
    provider: FakeProvider
    models: dict[str, Model]
    caller: Principal
    database: Database

    def model(self, name: str = "m", **facts: Any) -> None:
        """A model of that name, or other facts about the one there is."""
        known = self.models.get(name, self.models["m"])
        self.models[name] = replace(known, name=name, **facts)

    async def ask(self, idempotent: IdempotentCall | None = None, **changes: Any) -> CallResult:
        async with asyncio.timeout(TEST_DEADLINE_S):
            answer = await self.gateway.complete(self.caller, make_call(**changes), idempotent)
        assert isinstance(answer, CallResult)
        return answer

    async def listen(self, listener: RecordingListener | None = None, idempotent: IdempotentCall | None = None, **changes: Any) -> CallResult:
        async with asyncio.timeout(TEST_DEADLINE_S):
            answer = await self.gateway.stream(self.caller, make_call(**changes), listener or RecordingListener(), idempotent)
        assert isinstance(answer, CallResult)
        return answer

    async def replay(self, idempotent: IdempotentCall, listener: RecordingListener | None = None, **changes: Any) -> Replayed:
        """The same call once more, of which nothing but its answer is wanted."""
        ask = make_call(**changes)
        if listener is None:
            answer = await self.gateway.complete(self.caller, ask, idempotent)
        else:
            answer = await self.gateway.stream(self.caller, ask, listener, idempotent)
        assert isinstance(answer, Replayed)
        return answer

    async def charges(self) -> list[Charge]:
        """Every charge, in no order that means anything; none may be open, and nothing held."""
        async with self.database.session() as session:
            charges = list((await session.exec(select(Charge))).all())
            windows = (await session.exec(select(Window))).all()
        assert all(charge.closed_ms is not None for charge in charges), charges
        assert [window.pending for window in windows] == [0] * len(windows)
        assert sum(window.settled for window in windows) == sum(charge.cost_tokens for charge in charges)
        return charges

    async def charges_by_model(self) -> dict[str, Charge]:
        """The charges, each of another model."""
        charges = await self.charges()
        by_model = {charge.model: charge for charge in charges}
        assert len(by_model) == len(charges)
        return by_model

    async def charge(self) -> Charge:
        [charge] = await self.charges()
        return charge


def make_call(**changes: Any) -> ModelCall:
    request = ChatRequest((Message("user", "?"),))
    wanted: dict[str, Any] = {"surface": "query", "input": CallInput(lambda: request)} | changes
    return ModelCall(**wanted)


@asynccontextmanager
async def open_gateway(
    database_url: str, deadlines: Deadlines | None = None, clock: Clock | None = None
) -> AsyncIterator[GatewayUnderTest]:
    """A house with one model, `m`, for one caller with a quota of the day."""
    database = Database(database_url)
    ledger = Ledger(make_store(database_url, clock), lease_seconds=60)
    ledger.start()
    caller = await make_principal(database)
    provider = FakeProvider()
    models = {"m": Model("m", provider, context_window=5000, price=PRICE)}
    gateway = Gateway(ledger, Catalog("m", models.get, provider), deadlines or Deadlines(), default_output=500)
    await set_limit(ledger, user_quota(caller), 10_000)
    try:
        yield GatewayUnderTest(gateway, ledger, provider, models, caller, database)
    finally:
        await ledger.stop()
        await database.close()


class _Nap(asyncio.Event):
    async def wait(self) -> bool:  # type: ignore[override]
        await asyncio.sleep(0.02)
        return True


def short_pause() -> asyncio.Event:
    """A short pause of a provider's."""
    return _Nap()


async def failing_stream(gateway: GatewayUnderTest, listener: RecordingListener | None = None) -> tuple[TollkeeperError, Charge]:
    """A stream that fails: with what, and its charge."""
    with pytest.raises(CallFailed) as raised:
        await gateway.stream(listener)
    charge = await gateway.charge()
    assert raised.value.charge is not None
    assert (raised.value.charge.charge_id, raised.value.charge.cost_tokens) == (charge.id, charge.cost_tokens)
    return raised.value.cause, charge


def assert_charged(charge: Charge, basis: str, input_tokens: int, output_tokens: int) -> None:
    assert (charge.state, charge.basis) == ("settled", basis)
    assert (charge.input_tokens, charge.output_tokens) == (input_tokens, output_tokens)
    assert charge.cost_tokens == input_tokens + output_tokens
    assert charge.cost_micro_usd == (input_tokens * PRICE.input + output_tokens * PRICE.output) // 1_000_000
