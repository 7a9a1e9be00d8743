"""Calls with an idempotency key, each of which costs 37 unless it repeats another."""

from collections.abc import Callable

from books import Books
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
ONE = KeyedRequest("order 66", "a" * 64)
Answer = Callable[[ClosedCharge], StoredResponse | None]


def bill(closed: ClosedCharge) -> StoredResponse:
    return StoredResponse(200, "application/json", f'{{"cost":{closed.cost_tokens}}}'.encode())


def reservation(books: Books, attempt: KeyedRequest | None = ONE, ledger: Ledger | None = None) -> Reservation:
    return (ledger or books.ledger).reservation(books.caller, make_terms(10, 90), keyed_request=attempt)


async def call(books: Books, answer: Answer | None = bill, attempt: KeyedRequest = ONE) -> Reservation:
    """A call that costs 37, unless it is a replay."""
    async with reservation(books, attempt) as made:
        made.set_usage(Usage(7, 30))
        if answer is not None:
            made.store_response(answer)
    return made


async def refusal(books: Books, attempt: KeyedRequest = ONE) -> type[IdempotencyError] | None:
    """Why a reserve with the key is refused, and that nothing is left of it."""
    before = await books.snapshot()
    try:
        await reservation(books, attempt).__aenter__()
    except IdempotencyError as refused:
        assert await books.snapshot() == before
        return type(refused)
    return None


async def key_row(books: Books) -> Key:
    [row] = (await books.snapshot()).keys.values()
    return row
