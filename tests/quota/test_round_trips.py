"""How many statements a lone operation sends to PostgreSQL, one after the other. Each costs a call one round trip."""

from collections.abc import AsyncIterator

import pytest
from keyed_calls import render_cost
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment

from support.factories import charge_id, make_terms, set_limit, tenant_quota, user_quota
from support.sent_statements import record_statements
from tollkeeper.chat import Usage
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import BookFree, ClosedCharge, Hold, Reserve, Settle, StoreResponse
from tollkeeper.quota.rules.windows import Period

LEASE_MS = 60_000


@pytest.fixture
async def env(postgres_url: str) -> AsyncIterator[LedgerEnvironment]:
    """The ledger of a caller with several quotas, who has made a call already."""
    async with open_ledger_environment(postgres_url, limit=10_000) as made:
        await set_limit(made.ledger, user_quota(made.caller, Period.MONTH), 10_000)
        await set_limit(made.ledger, tenant_quota(made.caller), 10_000)
        await batch(made.store, reserve(made, "first"))
        yield made


@pytest.fixture
def sent(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that are sent from now on."""
    return record_statements(monkeypatch)


def reserve(env: LedgerEnvironment, name: str, key: str | None = None) -> Reserve:
    keyed = KeyedRequest(key, "-") if key is not None else None
    return Reserve(charge_id(name), env.caller, make_terms(), LEASE_MS, keyed_request=keyed)


def settle(env: LedgerEnvironment, reserved: Reserve) -> Settle:
    keyed = reserved.keyed_request
    to_store = StoreResponse(keyed.name(env.caller), render_cost) if keyed is not None else None
    usage = Usage(1, 1)
    return Settle(reserved.charge_id, env.caller.tenant_id, usage, Basis.PROVIDER, store_response=to_store)


@pytest.mark.parametrize(("key", "statements"), [(None, 4), ("key", 5)], ids=["plain", "with an idempotency key"])
async def test_a_lone_call_sends_few_statements(
    env: LedgerEnvironment, sent: list[str], key: str | None, statements: int
) -> None:
    entering = reserve(env, "a", key)
    [held] = await batch(env.store, entering)
    assert isinstance(held, Hold)
    assert len(sent) == statements, sent
    sent.clear()
    [closed] = await batch(env.store, settle(env, entering))
    assert isinstance(closed, ClosedCharge)
    assert len(sent) == statements, sent


async def test_an_answer_at_no_cost_sends_one_more_to_show_balances(env: LedgerEnvironment, sent: list[str]) -> None:
    [closed] = await batch(env.store, BookFree(charge_id("a"), env.caller, make_terms(), lease_ms=0))
    assert isinstance(closed, ClosedCharge)
    assert len(sent) == 5, sent


async def test_a_call_that_guessed_its_windows_wrong_begins_again(env: LedgerEnvironment, sent: list[str]) -> None:
    """A quota was added meanwhile, so the current window of it is not among those that were locked."""
    await set_limit(env.ledger, user_quota(env.caller, Period.MINUTE), 50)
    sent.clear()
    refused, *_ = await batch(env.store, reserve(env, "a"))
    assert not isinstance(refused, Hold), "the new quota refuses the call"
    assert sum(statement.startswith("BEGIN") for statement in sent) == 2
    assert list(await env.charges()) == [charge_id("first")]
