"""The share of answers that are rated after they were given: which, at whose cost, and what a failure means."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.factories import set_limit, user_quota
from support.gateway import USAGE, GatewayUnderTest, open_gateway
from tollkeeper.chat import Completion
from tollkeeper.errors import ProviderRejected
from tollkeeper.gateway import sampled_evaluations
from tollkeeper.gateway.evaluation import SAMPLED, Judge
from tollkeeper.identity.models import User, UserKind
from tollkeeper.principal import Principal

ANSWER = Completion("yes", "stop", USAGE)


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        opened.set_model("judge")
        yield opened


async def sample(gateway: GatewayUnderTest, *, limit: int | None = 10_000, **changes: Any) -> int:
    """Have all answers rated at the cost of a new service account. Returns its id."""
    async with gateway.database.session() as session:
        name = f"{secrets.token_hex(4)}@x.example"
        user = User(tenant_id=gateway.caller.tenant_id, email=name, password_hash="", kind=UserKind.SERVICE.value)
        session.add(user)
        await session.flush()
        assert user.id is not None
    if limit is not None:
        account = Principal(user.id, gateway.caller.tenant_id, gateway.caller.role, 0)
        await set_limit(gateway.ledger, user_quota(account), limit)
    judge = Judge("judge", None, 1.0, user.id)._replace(**changes)
    gateway.judges.configure({gateway.caller.tenant_id: judge})
    return user.id


def answers(gateway: GatewayUnderTest, *verdicts: Completion | Exception) -> None:
    gateway.provider.completions = [ANSWER, *verdicts]


async def rated(gateway: GatewayUnderTest) -> tuple[int | None, str | None]:
    await gateway.inner.sampled.stop()
    (one,) = gateway.rated
    assert (one.is_sampled, one.tenant_id, one.model) == (True, gateway.caller.tenant_id, "m")
    return one.verdict.score, one.verdict.reason


async def test_the_service_account_pays_and_the_caller_sees_nothing(gateway: GatewayUnderTest) -> None:
    account = await sample(gateway)
    answers(gateway, Completion('{"score": 70}', "stop", USAGE))
    result = await gateway.complete()
    assert result.outcome.verdict is None
    assert await rated(gateway) == (70, None)
    charges = await gateway.charges_by_model()
    assert (charges["m"].user_id, charges["m"].surface) == (gateway.caller.user_id, "query")
    assert (charges["judge"].user_id, charges["judge"].surface) == (account, SAMPLED)
    (one,) = gateway.rated
    assert (one.charge.charge_id, one.verdict.charge and one.verdict.charge.charge_id) == (
        charges["m"].id,
        charges["judge"].id,
    )
    assert [event.surface for event in gateway.seen] == ["query", SAMPLED]


async def test_streams_are_sampled_and_what_is_not_answered_is_not(gateway: GatewayUnderTest) -> None:
    await sample(gateway)
    gateway.provider.completions = [Completion('{"score": 50}', "stop", USAGE)]
    await gateway.stream()
    assert await rated(gateway) == (50, None)
    gateway.rated.clear()
    await gateway.complete(without_output=True)
    gateway.judges.configure({})
    await gateway.complete()
    await gateway.inner.sampled.stop()
    assert gateway.rated == []


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(Completion("fine", "stop", USAGE), "no_score"), (ProviderRejected(), "judge_failed")],
)
async def test_a_judge_that_fails_gives_a_reason(
    gateway: GatewayUnderTest, verdict: Completion | Exception, reason: str
) -> None:
    await sample(gateway)
    answers(gateway, verdict)
    await gateway.complete()
    assert await rated(gateway) == (None, reason)


async def test_without_an_account_with_quota_or_a_model_nothing_is_called(gateway: GatewayUnderTest) -> None:
    for changes, limit in (({}, None), ({"account": None}, 10_000), ({"model": "gone"}, 10_000)):
        gateway.rated.clear()
        await sample(gateway, limit=limit, **changes)
        await gateway.complete()
        assert await rated(gateway) == (None, "judge_refused"), changes
    assert {model for model, _ in gateway.provider.calls} == {"m"}


async def test_an_answer_without_text_is_not_rated(gateway: GatewayUnderTest) -> None:
    await sample(gateway)
    gateway.provider.completions = [Completion(" ", "stop", USAGE)]
    await gateway.complete()
    assert await rated(gateway) == (None, "no_text")


async def test_only_the_share_is_rated_and_only_so_many_at_a_time(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.inner.sampled, "_draw", iter([0.1, 0.9, 0.1]).__next__)
    monkeypatch.setattr(sampled_evaluations, "MAX_RUNNING", 1)
    await sample(gateway, share=0.5)
    await gateway.complete()
    await gateway.inner.sampled.stop()
    assert len(gateway.rated) == 1
    await gateway.complete()
    await gateway.inner.sampled.stop()
    assert len(gateway.rated) == 1, "it was not drawn"
    gateway.inner.sampled._tasks.add(blocked := asyncio.create_task(asyncio.sleep(60)))
    await gateway.complete()
    assert gateway.rated[-1].verdict.reason == "busy"
    monkeypatch.setattr(sampled_evaluations, "STOP_S", 0.01)
    await gateway.inner.sampled.stop()
    assert blocked.cancelled(), "what runs too long is cancelled when the process stops"
