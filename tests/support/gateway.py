"""A gateway with a real ledger and a scripted provider, and a listener that records what is delivered."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from sqlmodel import select

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import make_principal, make_store, set_limit, user_quota
from tollkeeper.chat import ChatRequest, Completion, Finish, Message, Price, TextDelta, Usage, UsageReport
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.contents.content_log import ContentLog
from tollkeeper.database.engine import Database
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.gateway.cached_vectors import AnswerCache
from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.evaluation import Judges
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.gateway.verdict import RatedAnswer
from tollkeeper.identity.accounts import find_service_account
from tollkeeper.moderation.policies import Policies
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, Model, PreparedCall, StreamChunk
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Charge, Window
from tollkeeper.quota.rules.operations import Replayed
from tollkeeper.telemetry.trace_context import join_trace, outgoing_traceparent

BODY_BYTES, INPUT_TOKENS = 1000, 50
INPUT_BOUND, EXACT_INPUT_BOUND = BODY_BYTES + 8 + 64, INPUT_TOKENS + 8 + 64
USAGE = Usage(40, 10)
PRICE = Price(1_000_000, 500_000, 2_000_000)
ONE_MESSAGE = InputSize(1)

Step = StreamChunk | Exception | asyncio.Event | Callable[[], object]
"""One step of a stream: send a chunk, raise an error, wait for an event, or call a function."""


def text_chunk(text: str) -> StreamChunk:
    return StreamChunk(text.encode(), (TextDelta(text),))


def final_chunks(usage: UsageReport | None = USAGE, reason: str = "stop") -> list[StreamChunk]:
    """The chunks at the end of a complete stream: the finish reason, and the usage report if there is one."""
    report = (usage,) if usage is not None else ()
    return [StreamChunk(b"<finish>", (Finish(reason),)), StreamChunk(b"<usage>", report, last=True)]


@dataclass
class FakeProvider:
    """A scripted provider. Each character of its output is one token.

    Each call uses the next item of `completions` or `streams`; the last item is used again for all later calls. `calls`
    records the model and the output limit of each call, and `traceparents` its span; `unfinished_streams` counts the
    streams that were closed before their end. If `answer_gate` is set, `complete` waits for it. The event `called` is
    set at the first call.
    """

    name: str = "fake"
    completions: list[Completion | Exception] = field(default_factory=lambda: [Completion("yes", "stop", USAGE)])
    streams: list[Sequence[Step]] = field(default_factory=lambda: [[text_chunk("yes"), *final_chunks()]])
    input_size: InputSize = ONE_MESSAGE
    thinks: bool = False
    has_tokenizer: bool = True
    prepare_error: Exception | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    input_counts: int = 0
    unfinished_streams: int = 0
    answer_gate: asyncio.Event | None = None
    called: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def limits(self) -> list[int]:
        return [limit for _, limit in self.calls]

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if self.prepare_error is not None:
            raise self.prepare_error
        return PreparedCall(model, b"x" * BODY_BYTES, b"", self.input_size, lambda: (), thinks=self.thinks)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        self.calls.append((prepared.model.name, max_output))
        self.traceparents.append(outgoing_traceparent.get())
        self.called.set()
        if self.answer_gate is not None:
            await self.answer_gate.wait()
        completion = self.completions.pop(0) if len(self.completions) > 1 else self.completions[0]
        if isinstance(completion, Exception):
            raise completion
        return completion

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        self.calls.append((prepared.model.name, max_output))
        self.traceparents.append(outgoing_traceparent.get())
        self.called.set()
        steps = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        finished = False
        try:
            for step in steps:
                match step:
                    case Exception():
                        finished = True
                        raise step
                    case asyncio.Event():
                        await step.wait()
                    case StreamChunk():
                        yield step
                    case _:
                        step()
            finished = True
        finally:
            self.unfinished_streams += not finished

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
    """Records the chunks that are delivered. If there is a `blocked_by`, the client does not read until it is set."""

    chunks: list[StreamChunk] = field(default_factory=list)
    pings: int = 0
    attached: int = 0
    """How many attempts it was attached to."""
    blocked_by: asyncio.Event | None = None
    left: bool = False
    cache_status: CacheStatus | None = None
    on_disconnect: Callable[[], None] = lambda: None
    reservation: Reservation | None = None

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self.attached += 1
        self.on_disconnect, self.reservation = on_disconnect, reservation
        if self.left:
            asyncio.get_running_loop().call_soon(on_disconnect)

    async def deliver(self, chunk: StreamChunk) -> None:
        self.chunks.append(chunk)
        if self.blocked_by is not None:
            await self.blocked_by.wait()

    def ping(self) -> None:
        self.pings += 1

    def disconnect_soon(self) -> None:
        """Disconnect the client at the next pause of the relay. Used as a step of a stream."""
        self.left = True
        asyncio.get_running_loop().call_soon(self.on_disconnect)

    @property
    def raw(self) -> bytes:
        return b"".join(chunk.raw for chunk in self.chunks)


@dataclass
class GatewayUnderTest:
    """A gateway and its parts. `inner` is the gateway itself. Change `models` before the first call.

    `seen` has the event of each call.
    """

    inner: Gateway
    ledger: Ledger
    provider: FakeProvider
    models: dict[str, Model]
    caller: Principal
    database: Database
    contents: ContentLog
    keys: DataKeys
    cache: AnswerCache
    policies: Policies
    judges: Judges
    rated: list[RatedAnswer]
    seen: list[CallEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events = CallEvents(self.seen.append)

    def set_model(self, name: str = "m", **attributes: Any) -> None:
        """Add a model of this name, or change attributes of the existing one."""
        known = self.models.get(name, self.models["m"])
        self.models[name] = replace(known, name=name, **attributes)

    async def complete(self, idempotent: IdempotentCall | None = None, **changes: Any) -> CallResult:
        async with asyncio.timeout(TEST_DEADLINE_S):
            with self.events.record(self.caller, "query", join_trace(())) as record:
                result = await self.inner.complete(record, make_call(**changes), idempotent)
        assert isinstance(result, CallResult)
        return result

    async def stream(
        self,
        listener: RecordingListener | None = None,
        idempotent: IdempotentCall | None = None,
        **changes: Any,
    ) -> CallResult:
        call = make_call(**changes)
        async with asyncio.timeout(TEST_DEADLINE_S):
            with self.events.record(self.caller, "query", join_trace(())) as record:
                result = await self.inner.stream(record, call, listener or RecordingListener(), idempotent)
        assert isinstance(result, CallResult)
        return result

    async def replay(
        self, idempotent: IdempotentCall, listener: RecordingListener | None = None, **changes: Any
    ) -> Replayed:
        """Make a call whose response is already stored for its key."""
        call = make_call(**changes)
        with self.events.record(self.caller, "query", join_trace(())) as record:
            if listener is None:
                result = await self.inner.complete(record, call, idempotent)
            else:
                result = await self.inner.stream(record, call, listener, idempotent)
        assert isinstance(result, Replayed)
        return result

    async def charges(self) -> list[Charge]:
        """All charges, in no particular order. Asserts that all are closed and that no window has a hold."""
        async with self.database.session() as session:
            charges = list((await session.exec(select(Charge))).all())
            windows = (await session.exec(select(Window))).all()
        assert all(charge.closed_ms is not None for charge in charges), charges
        assert [window.pending for window in windows] == [0] * len(windows)
        assert sum(window.settled for window in windows) == sum(charge.cost_tokens for charge in charges)
        return charges

    async def charges_by_model(self) -> dict[str, Charge]:
        """The charges by model. Asserts that each model has one charge."""
        charges = await self.charges()
        by_model = {charge.model: charge for charge in charges}
        assert len(by_model) == len(charges)
        return by_model

    async def charge(self) -> Charge:
        [charge] = await self.charges()
        return charge


def make_call(**changes: Any) -> ModelCall:
    request = ChatRequest((Message("user", "?"),))
    fields: dict[str, Any] = {"surface": "query", "input": CallInput(lambda: request)} | changes
    return ModelCall(**fields)


@asynccontextmanager
async def open_gateway(
    database_url: str, deadlines: Deadlines | None = None, clock: Clock | None = None
) -> AsyncIterator[GatewayUnderTest]:
    """A gateway with one model, `m`, for one caller with a daily quota of 10,000 tokens."""
    database = Database(database_url)
    ledger = Ledger(make_store(database_url, clock), lease_seconds=60)
    ledger.start()
    caller = await make_principal(database)
    provider = FakeProvider()
    models = {"m": Model("m", provider, context_window=5000, price=PRICE)}
    keys = make_data_keys()
    contents = ContentLog(database, keys, clock or SystemClock())
    cache = AnswerCache(max_bytes=1_000_000, seconds=60)
    policies, judges = Policies(), Judges()
    rated: list[RatedAnswer] = []
    gateway = Gateway(
        ledger,
        Catalog("m", models.get, provider),
        deadlines or Deadlines(),
        StoredResponses(keys),
        contents,
        cache,
        policies,
        partial(find_service_account, database),
        lambda *_: None,
        judges,
        rated.append,
        default_output=500,
    )
    await set_limit(ledger, user_quota(caller), 10_000)
    try:
        yield GatewayUnderTest(
            gateway, ledger, provider, models, caller, database, contents, keys, cache, policies, judges, rated
        )
    finally:
        await ledger.stop()
        await database.close()


class _ShortPause(asyncio.Event):
    async def wait(self) -> bool:  # type: ignore[override]
        await asyncio.sleep(0.02)
        return True


def short_pause() -> asyncio.Event:
    """A step of a stream: a short pause of the provider."""
    return _ShortPause()


async def failing_stream(
    gateway: GatewayUnderTest, listener: RecordingListener | None = None
) -> tuple[TollkeeperError, Charge]:
    """Make a streamed call that fails. Returns the cause and the charge."""
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
