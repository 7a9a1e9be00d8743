"""The messages of errors, the same in every error format."""

from typing import Any

import orjson
import pytest

from tollkeeper.api import errors as native
from tollkeeper.api.compat import anthropic_errors, openai_errors
from tollkeeper.api.compat.anthropic import MESSAGES
from tollkeeper.dialects.sse import Splitter
from tollkeeper.errors import (
    ContentFiltered,
    ContextOverflow,
    ProviderRateLimited,
    ProviderRejected,
    QuotaExceeded,
    QuotaHeld,
    QuotaRefusal,
    RateLimited,
    RequestTooLarge,
    TollkeeperError,
)
from tollkeeper.gateway.results import CallFailed

DECEMBER_MS = 1_796_083_200_000
FIGURES: dict[str, Any] = {"limit": 70_000, "used": 28_000, "reserved": 1_000, "needed": 64_158}
EXCEEDED = QuotaExceeded(quota="user-month", resets_ms=DECEMBER_MS, **FIGURES)
EXCEEDED_MESSAGE = (
    "The quota does not have room for this call: the call needs 64,158 tokens, with room for its answer, and "
    "28,000 of 70,000 in user-month are used and 1,000 held by calls in flight; the quota resets at "
    "2026-12-01T00:00:00Z. Ask an administrator for more: POST /me/quota/requests."
)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (EXCEEDED, EXCEEDED_MESSAGE),
        (
            QuotaHeld(quota="tenant-total-usd", unit="micro_usd", **FIGURES),
            "The room in this quota is held by calls in flight: the call needs 64,158 micro-USD, with room for its "
            "answer, and 28,000 of 70,000 in tenant-total-usd are used and 1,000 held by calls in flight; "
            "the quota never resets.",
        ),
        (
            QuotaExceeded(quota="user-day", limit=100_000, needed=128_073, resets_ms=DECEMBER_MS),
            "This call can never fit: it needs 128,073 tokens and the limit is 100,000. Lower max_tokens. If that is"
            " not enough, shorten the prompt.",
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
    ids=["exceeded", "held", "never fits", "no quota", "no price"],
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


def test_a_call_that_can_never_fit_is_not_asked_to_wait() -> None:
    for needed, waits in ((101, False), (100, True)):
        _, _, headers = native.render_problem(QuotaExceeded(limit=100, needed=needed, retry_after_s=7))
        assert ("Retry-After" in headers) is waits


@pytest.mark.parametrize(
    ("wait_s", "latest_s"), [(1, 2), (40, 44), (57, 60), (60, 60), (115, 120), (121, 133), (86_400, 86_460)]
)
def test_clients_of_a_limit_that_resets_are_asked_to_come_back_at_different_times(wait_s: int, latest_s: int) -> None:
    """But not after the time that an SDK waits."""
    found = {_retry_after(QuotaExceeded(retry_after_s=wait_s)) for _ in range(500)}
    assert (min(found) >= wait_s, max(found) <= latest_s) == (True, True)
    assert (len(found) > 1) == (latest_s > wait_s)


def test_holds_and_providers_have_their_own_times() -> None:
    for error in (QuotaHeld(retry_after_s=1), ProviderRateLimited(retry_after_s=7)):
        assert {_retry_after(error) for _ in range(100)} == {error.retry_after_s}


@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        (QuotaExceeded(limit=100, needed=100, retry_after_s=60), "tokens", "rate_limit_exceeded"),
        (QuotaExceeded(limit=5, needed=1, retry_after_s=1, unit="requests"), "requests", "rate_limit_exceeded"),
        (QuotaExceeded(limit=100, needed=100, retry_after_s=61), "insufficient_quota", "insufficient_quota"),
        (QuotaExceeded(limit=100, needed=101, retry_after_s=7), "insufficient_quota", "insufficient_quota"),
        (QuotaExceeded(limit=0, needed=1, retry_after_s=7), "insufficient_quota", "insufficient_quota"),
        (QuotaExceeded(limit=100, needed=100), "insufficient_quota", "insufficient_quota"),
    ],
    ids=["last minute", "requests", "later", "never fits", "no room at all", "total"],
)
def test_an_sdk_repeats_a_call_only_where_the_next_window_is_near_and_has_room(
    refusal: QuotaRefusal, kind: str, code: str
) -> None:
    status, body, headers = openai_errors.render(refusal)
    error = orjson.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (429, kind, code)
    for found in (headers, MESSAGES.render_error(refusal)[2]):
        assert found.get("x-should-retry") == (None if code == "rate_limit_exceeded" else "false")
        assert found["X-Error-Code"] == "quota_exceeded"


def _retry_after(error: TollkeeperError) -> int:
    return int(native.render_problem(error)[2]["Retry-After"])


@pytest.mark.parametrize(
    ("error", "status", "openai", "anthropic"),
    [
        (
            ContextOverflow(210_000, 200_000),
            400,
            ("invalid_request_error", "context_length_exceeded", None),
            ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        ),
        (
            ContextOverflow(),
            400,
            ("invalid_request_error", "context_length_exceeded", None),
            ("invalid_request_error", "prompt is too long"),
        ),
        (
            ContentFiltered(),
            400,
            ("invalid_request_error", "content_filter", None),
            ("invalid_request_error", ContentFiltered.sentence),
        ),
        (
            RequestTooLarge(),
            413,
            ("invalid_request_error", "request_too_large", None),
            ("request_too_large", RequestTooLarge.sentence),
        ),
        (
            ProviderRejected(parameter="tools[0].function"),
            400,
            ("invalid_request_error", None, "tools[0].function"),
            ("invalid_request_error", f"{ProviderRejected.sentence} The field at fault: tools[0].function."),
        ),
    ],
    ids=["overflow", "overflow without numbers", "filtered", "too large", "a field"],
)
def test_the_reason_of_a_rejection_is_told_in_the_words_of_each_api(
    error: ProviderRejected, status: int, openai: tuple[str, str | None, str | None], anthropic: tuple[str, str]
) -> None:
    failed = CallFailed(error, None)
    got, body, headers = openai_errors.render(failed)
    told = orjson.loads(body)["error"]
    assert (got, told["type"], told["code"], told["param"]) == (status, *openai)
    assert headers["X-Error-Code"] == error.code
    got, body, _ = MESSAGES.render_error(failed)
    told = orjson.loads(body)["error"]
    assert (got, told["type"], told["message"]) == (status, *anthropic)
    got, body, _ = native.render_problem(failed)
    assert (got, orjson.loads(body)["code"]) == (status, error.code)
    [event] = Splitter().feed(anthropic_errors.stream_error(error))
    assert orjson.loads(event.data)["error"] == {"type": anthropic[0], "message": anthropic[1]}


def test_the_openai_message_of_an_overflow_has_the_numbers() -> None:
    _, body, _ = openai_errors.render(ContextOverflow(10_001, 8192))
    assert "maximum context length is 8192 tokens" in orjson.loads(body)["error"]["message"]
