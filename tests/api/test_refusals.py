"""What a refusal for lack of quota says, whatever the wire."""

from typing import Any

import orjson
import pytest

from tollkeeper.api import errors as native
from tollkeeper.api.compat import openai_errors
from tollkeeper.api.compat.anthropic import MESSAGES
from tollkeeper.errors import QuotaExceeded, QuotaHeld, QuotaRefusal, RateLimited
from tollkeeper.gateway.results import CallFailed

DECEMBER_MS = 1_796_083_200_000
FIGURES: dict[str, Any] = {"limit": 20_000, "used": 28, "reserved": 1_000, "needed": 64_158}
EXCEEDED = QuotaExceeded(quota="user-month", resets_ms=DECEMBER_MS, **FIGURES)
EXCEEDED_SAYS = (
    "The quota does not have room for this call: the call needs 64,158 tokens, with room for its answer, and "
    "28 of 20,000 in user-month are used and 1,000 held by calls in flight; the quota resets at 2026-12-01T00:00:00Z."
)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (EXCEEDED, EXCEEDED_SAYS),
        (
            QuotaHeld(quota="tenant-total-usd", unit="micro_usd", **FIGURES),
            "The room in this quota is held by calls in flight: the call needs 64,158 micro-USD, with room for its "
            "answer, and 28 of 20,000 in tenant-total-usd are used and 1,000 held by calls in flight; "
            "the quota never resets.",
        ),
        (
            QuotaExceeded("You have no token quota.", quota="user", needed=64_158),
            "You have no token quota. The call needs 64,158 tokens, with room for its answer.",
        ),
        (
            QuotaExceeded("This model has no price.", quota="user-day-usd", unit="micro_usd", limit=7),
            "This model has no price.",
        ),
    ],
    ids=["exceeded", "held", "no quota", "no price"],
)
def test_it_says_what_is_needed_and_how_the_quota_stands(refusal: QuotaRefusal, says: str) -> None:
    assert native.message_of(refusal) == says


def test_it_says_so_in_every_manner() -> None:
    for error in (EXCEEDED, CallFailed(EXCEEDED, None)):
        for manner, place in (
            (openai_errors.render, "error"),
            (MESSAGES.render_error, "error"),
            (native.render_problem, ""),
        ):
            status, body, headers = manner(error)
            document = orjson.loads(body)
            told = document[place]["message"] if place else document["detail"]
            assert (status, headers["X-Quota-Name"], told) == (429, "user-month", EXCEEDED_SAYS)


def test_another_refusal_says_its_own_sentence() -> None:
    assert native.message_of(RateLimited()) == RateLimited.sentence
