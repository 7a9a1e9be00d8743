"""Calls with an idempotency key. Each costs 37 tokens, unless it is a replay."""

from collections.abc import Callable

from ledger_environment import LedgerEnvironment
from snapshot import Key

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.errors import IdempotencyError
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.operations import ClosedCharge

DAY_S = 86_400
LEASE_MS = 60_000
KEYED_REQUEST = KeyedRequest("order 66", "a" * 64)
RenderResponse = Callable[[ClosedCharge], StoredResponse | None]


def render_cost(closed: ClosedCharge) -> StoredResponse:
    return StoredResponse(200, "application/json", f'{{"cost":{closed.cost_tokens}}}'.encode())


def make_reservation(
    env: LedgerEnvironment, keyed_request: KeyedRequest | None = KEYED_REQUEST, ledger: Ledger | None = None
) -> Reservation:
    return (ledger or env.ledger).reservation(env.caller, make_terms(10, 90), keyed_request=keyed_request)


async def keyed_call(
    env: LedgerEnvironment, answer: RenderResponse | None = render_cost, keyed_request: KeyedRequest = KEYED_REQUEST
) -> Reservation:
    """Make a call that costs 37 tokens, unless it is a replay."""
    async with make_reservation(env, keyed_request) as made:
        made.set_usage(Usage(7, 30))
        if answer is not None:
            made.store_response(answer)
    return made


async def refusal(env: LedgerEnvironment, keyed_request: KeyedRequest = KEYED_REQUEST) -> type[IdempotencyError] | None:
    """The error of a reserve with the key; None if it is admitted. Asserts that a refusal changes nothing."""
    before = await env.snapshot()
    try:
        await make_reservation(env, keyed_request).__aenter__()
    except IdempotencyError as refused:
        assert await env.snapshot() == before
        return type(refused)
    return None


async def key_row(env: LedgerEnvironment) -> Key:
    [row] = (await env.snapshot()).keys.values()
    return row
