"""The messages of errors, the same in every error format."""

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
EXCEEDED_MESSAGE = (
    "The quota does not have room for this call: the call needs 64,158 tokens, with room for its answer, and "
    "28 of 20,000 in user-month are used and 1,000 held by calls in flight; the quota resets at 2026-12-01T00:00:00Z."
)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (EXCEEDED, EXCEEDED_MESSAGE),
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
def test_a_quota_error_states_the_need_and_the_balance_of_the_quota(refusal: QuotaRefusal, message: str) -> None:
    assert native.message_of(refusal) == message


def test_every_error_format_has_the_same_message() -> None:
    for error in (EXCEEDED, CallFailed(EXCEEDED, None)):
        for render, field in (
            (openai_errors.render, "error"),
            (MESSAGES.render_error, "error"),
            (native.render_problem, ""),
        ):
            status, body, headers = render(error)
            document = orjson.loads(body)
            message = document[field]["message"] if field else document["detail"]
            assert (status, headers["X-Quota-Name"], message) == (429, "user-month", EXCEEDED_MESSAGE)


def test_any_other_error_has_the_sentence_of_its_class() -> None:
    assert native.message_of(RateLimited()) == RateLimited.sentence
