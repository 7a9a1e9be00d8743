"""Retries and fallbacks: a failed attempt is followed by another only where nothing can have been billed."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

from tollkeeper.errors import (
    InputError,
    ModelNotFound,
    ProviderError,
    ProviderFailed,
    ProviderRejected,
    ProviderUnavailable,
    QuotaRefusal,
    TollkeeperError,
)
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import Outcome
from tollkeeper.gateway.streaming import Listener
from tollkeeper.quota.reservation import Reservation

MAX_RETRIES = 1
"""Further attempts at one model."""
RETRY_PAUSE_S = 0.2
"""The shortest pause before a retry; the longest is twice as long."""

Attempt = Callable[[Reservation, Candidate], Awaitable[Outcome]]
"""One call of one provider, which reports to the reservation what it used. Raises ProviderError."""
MakeCandidate = Callable[[], Awaitable[Candidate]]
"""Prepares a call of one model. Raises InputError or ModelNotFound where that model cannot take the call."""


async def call_with_fallbacks(
    reservation: Reservation,
    candidate: Candidate,
    attempt: Attempt,
    fallbacks: Iterator[MakeCandidate],
    listener: Listener | None = None,
) -> Outcome:
    """Call the model, once more where that is safe, and then its fallbacks. Each fallback is a charge of its own.

    Raises the ProviderError of the last attempt. No attempt follows once the `listener` has disconnected.
    """
    retries = MAX_RETRIES
    while True:
        try:
            return await attempt(reservation, candidate)
        except ProviderError as error:
            if error.billed or isinstance(error, ProviderRejected):
                raise
            if retries and _is_worth_a_retry(error):
                retries -= 1
                await asyncio.sleep(RETRY_PAUSE_S * (1 + random.random()))
            else:
                fallback = await _reserve_next(reservation, fallbacks, error.code)
                if fallback is None:
                    raise
                candidate, retries = fallback, MAX_RETRIES
            if listener is not None and listener.left:
                raise


def _is_worth_a_retry(error: ProviderError) -> bool:
    return isinstance(error, ProviderUnavailable | ProviderFailed) and error.retry_after_s is None


async def _reserve_next(
    reservation: Reservation, fallbacks: Iterator[MakeCandidate], error_code: str
) -> Candidate | None:
    """The next fallback that takes the call, with its hold reserved.

    None: there is none; or the next one cannot be reserved, for lack of quota or because the ledger is unavailable.
    """
    for make_candidate in fallbacks:
        try:
            candidate = await make_candidate()
        except (InputError, ModelNotFound):
            continue
        try:
            try:
                await reservation.extend(await candidate.byte_terms(), error_code)
            except QuotaRefusal:
                await reservation.extend(await candidate.exact_terms(), error_code)
        except TollkeeperError:
            return None
        return candidate
    return None
