"""The path, with a real ledger on SQLite and a provider that does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from sqlmodel import select

from factories import make_principal, make_store, set_limit, user_quota
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, Price, Usage
from tollkeeper.db import Database
from tollkeeper.gateway import Ask, FailedCall, Gateway
from tollkeeper.principal import Principal
from tollkeeper.providers.base import PreparedCall
from tollkeeper.providers.catalog import Catalog, Model
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.models import Basis, Charge
from tollkeeper.throttle import Throttle

BODY_BYTES, INPUT_TOKENS = 1000, 50
BOUND, EXACT = BODY_BYTES + 8 + 64, INPUT_TOKENS + 8 + 64


@dataclass
class FakeProvider:
    """Answers with `completion`, or raises it; remembers the limits it was given."""

    completion: Completion | Exception = field(default_factory=lambda: Completion("yes", "stop", Usage(40, 10)))
    limits: list[int] = field(default_factory=list)
    counted: int = 0
    name: str = "fake"

    def prepare(self, request: ChatRequest) -> PreparedCall:
        return PreparedCall(b"", BODY_BYTES, len(request.messages), ())

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        self.limits.append(max_output)
        if isinstance(self.completion, Exception):
            raise self.completion
        return self.completion

    async def count_input(self, call: PreparedCall) -> int:
        self.counted += 1
        return INPUT_TOKENS

    async def count_output(self, text: str) -> int:
        return len(text)

    async def cut(self, text: str, tokens: int) -> str:
        return text[:tokens]

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class House:
    """A gateway, and what it is made of."""

    gateway: Gateway
    ledger: Ledger
    provider: FakeProvider
    caller: Principal
    database: Database

    async def ask(self, **changes: object) -> object:
        wanted = {"surface": "query", "messages": (Message("user", "?"),)} | changes
        return await self.gateway.complete(self.caller, Ask(**wanted))  # type: ignore[arg-type]

    async def charge(self) -> Charge:
        async with self.database.session() as session:
            return (await session.exec(select(Charge))).one()


@pytest.fixture
async def house(sqlite_url: str) -> AsyncIterator[House]:
    database = Database(sqlite_url)
    ledger = Ledger(make_store(sqlite_url), lease_seconds=60)
    ledger.start()
    caller = await make_principal(database)
    provider = FakeProvider()
    model = Model("m", provider, context_window=5000, price=Price(1_000_000, 500_000, 2_000_000))
    catalog = Catalog("m", lambda name: model if name == "m" else None, provider)
    gateway = Gateway(ledger, catalog, Throttle(login="off", ai="20/minute"), default_output=500)
    await set_limit(ledger, user_quota(caller), 10_000)
    yield House(gateway, ledger, provider, caller, database)
    await ledger.stop()
    await database.close()


async def test_with_room_the_cheap_bound_is_held_in_full_and_nothing_is_counted(house: House) -> None:
    await house.ask()
    charge = await house.charge()
    assert (charge.input_bound, charge.granted_output, charge.held_tokens) == (BOUND, 500, BOUND + 500)
    assert (charge.cost_tokens, charge.cost_micro_usd, charge.basis) == (50, 60, "provider")
    assert house.provider.limits == [500]
    assert house.provider.counted == 0


async def test_with_less_room_the_exact_count_is_held_in_full(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), BOUND + 499)
    await house.ask()
    charge = await house.charge()
    assert (charge.input_bound, charge.granted_output) == (EXACT, 500)


async def test_with_little_room_the_output_is_clamped_and_the_provider_is_told(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 16)
    await house.ask()
    assert house.provider.limits == [16]
    assert (await house.charge()).held_tokens == EXACT + 16


async def test_with_too_little_room_the_call_is_refused_and_the_provider_not_asked(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 15)
    with pytest.raises(errors.QuotaExceeded) as raised:
        await house.ask()
    assert (raised.value.limit, raised.value.needed) == (EXACT + 15, EXACT + 16)
    assert house.provider.limits == []


async def test_a_limit_that_the_caller_gave_is_never_clamped(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 99)
    with pytest.raises(errors.QuotaExceeded):
        await house.ask(max_output=100)
    await house.ask(max_output=99)
    assert house.provider.limits == [99]


async def test_the_callers_own_cap_bounds_the_hold(house: House) -> None:
    await house.ask(allocation=EXACT + 30)
    assert house.provider.limits == [30]
    assert (await house.charge()).held_tokens == EXACT + 30


async def test_a_cap_that_is_too_small_is_the_callers_mistake(house: House) -> None:
    for changes in ({"allocation": EXACT + 15}, {"allocation": EXACT + 30, "max_output": 31}, {"allocation": 1}):
        with pytest.raises(errors.InvalidRequest):
            await house.ask(**changes)
    assert house.provider.limits == []


async def test_without_a_believable_report_the_text_is_counted(house: House) -> None:
    for usage in (None, Usage(5001, 1), Usage(1, 5001)):
        house.provider.completion = Completion("12345", "stop", usage)
        await house.ask()
    async with house.database.session() as session:
        charges = (await session.exec(select(Charge))).all()
    assert {(charge.basis, charge.cost_tokens) for charge in charges} == {(Basis.COUNTED, INPUT_TOKENS + 5)}


async def test_an_explicit_zero_is_charged_as_reported(house: House) -> None:
    house.provider.completion = Completion("for free", "stop", Usage(0, 0))
    await house.ask()
    charge = await house.charge()
    assert (charge.basis, charge.cost_tokens, charge.state) == (Basis.PROVIDER, 0, "settled")


async def test_an_answer_beyond_the_limit_is_cut_and_its_whole_cost_booked(house: House) -> None:
    house.provider.completion = Completion("x" * 900, "stop", Usage(1000, 900))
    answer = await house.ask(max_output=100)
    assert getattr(answer, "completion")[:2] == ("x" * 100, "length")  # noqa: B009
    charge = await house.charge()
    assert (charge.cost_tokens, charge.overrun) == (1900, True)


async def test_a_failure_that_cannot_have_been_billed_is_released(house: House) -> None:
    house.provider.completion = errors.ProviderRejected()
    with pytest.raises(FailedCall) as raised:
        await house.ask()
    assert raised.value.cause.code == "provider_rejected"
    assert raised.value.charge is not None
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.cost_tokens, charge.error) == (
        "released",
        "none",
        0,
        "provider_rejected",
    )


async def test_an_unknown_outcome_charges_the_input_and_forgives_the_rest(house: House) -> None:
    house.provider.completion = errors.ProviderTimeout()
    with pytest.raises(FailedCall):
        await house.ask()
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "unknown", INPUT_TOKENS)
    assert charge.forgiven_tokens == charge.held_tokens - INPUT_TOKENS


async def test_a_bug_in_a_provider_leaves_no_hold(house: House) -> None:
    house.provider.completion = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await house.ask()
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "ZeroDivisionError")


async def test_a_model_that_is_not_there_costs_nothing(house: House) -> None:
    with pytest.raises(errors.NotFound):
        await house.ask(model="other")
    async with house.database.session() as session:
        assert (await session.exec(select(Charge))).all() == []


async def test_the_limit_on_requests_comes_first(house: House) -> None:
    for _ in range(20):
        await house.ask()
    with pytest.raises(errors.RateLimited) as raised:
        await house.ask()
    assert 1 <= (raised.value.retry_after_s or 0) <= 60
    assert len(house.provider.limits) == 20


async def test_calls_at_once_never_hold_more_than_there_is(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), 3 * (BOUND + 100))
    results = await asyncio.gather(*(house.ask(max_output=100) for _ in range(8)), return_exceptions=True)
    kinds = [type(result).__name__ for result in results]
    assert kinds.count("QuotaHeld") + kinds.count("Answer") == 8
    assert kinds.count("Answer") >= 3
