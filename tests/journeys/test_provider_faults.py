"""The provider fails: the client's error, the ledger's charge, and one request only where it may be billed."""

from typing import Any, NamedTuple

import psutil
import pytest

from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres

LEAK = "SECRET-OF-THE-UPSTREAM"
REDIRECT_TARGET = "/v1/followed"
LEAKING_BODY = {"raw": f'{{"error": {{"message": "{LEAK}"}}}}'}


class Fault(NamedTuple):
    """The fault of the upstream, the client's error, and the number of requests to the upstream."""

    script: dict[str, Any]
    status: int
    code: str
    retry_after: str | None = None
    requests: int = 1


def _too_many(header: str | None, retry_after: str) -> Fault:
    headers = {"Retry-After": header} if header is not None else {}
    return Fault({"status": 429, "headers": headers} | LEAKING_BODY, 503, "provider_rate_limited", retry_after)


NOTHING_BILLED = {
    "401": Fault({"status": 401} | LEAKING_BODY, 502, "provider_auth_failed"),
    "402": Fault({"status": 402} | LEAKING_BODY, 502, "provider_auth_failed"),
    "403": Fault({"status": 403} | LEAKING_BODY, 502, "provider_auth_failed"),
    "429": _too_many("7", retry_after="7"),
    "429 without a time": _too_many(None, retry_after="1"),
    "429 with a date": _too_many("Fri, 31 Dec 1999 23:59:59 GMT", retry_after="1"),
    "429 with nonsense": _too_many(f"-5 {LEAK}", retry_after="1"),
    "429 for a year": _too_many("31536000", retry_after="3600"),
    "400": Fault({"status": 400} | LEAKING_BODY, 400, "provider_rejected"),
    "413": Fault({"status": 413} | LEAKING_BODY, 413, "request_too_large"),
    "422": Fault({"status": 422} | LEAKING_BODY, 400, "provider_rejected"),
    "404": Fault({"status": 404} | LEAKING_BODY, 502, "provider_error"),
    "409": Fault({"status": 409} | LEAKING_BODY, 502, "provider_error", requests=2),
    "500": Fault({"status": 500} | LEAKING_BODY, 502, "provider_error", requests=2),
    "503": Fault({"status": 503, "headers": {"Retry-After": "9"}} | LEAKING_BODY, 502, "provider_error", requests=2),
    "529": Fault({"status": 529} | LEAKING_BODY, 502, "provider_error", requests=2),
    "302": Fault(
        {"status": 302, "headers": {"Location": REDIRECT_TARGET}} | LEAKING_BODY, 502, "provider_error", requests=2
    ),
    "308": Fault(
        {"status": 308, "headers": {"Location": REDIRECT_TARGET}} | LEAKING_BODY, 502, "provider_error", requests=2
    ),
    "an error with status 200": Fault(LEAKING_BODY, 502, "provider_error", requests=2),
}

UNREADABLE = {
    "408": Fault({"status": 408} | LEAKING_BODY, 504, "provider_timeout"),
    "204": Fault({"status": 204, "raw": ""}, 502, "provider_bad_response"),
    "206": Fault({"status": 206} | LEAKING_BODY, 502, "provider_bad_response"),
    "garbage": Fault({"raw": f"<html>{LEAK}</html>"}, 502, "provider_bad_response"),
    "an empty body": Fault({"raw": ""}, 502, "provider_bad_response"),
    "half a document": Fault({"raw": f'{{"choices": [{{"message": {{"content": "{LEAK}'}, 502, "provider_bad_response"),
    "a list": Fault({"raw": f'["{LEAK}"]'}, 502, "provider_bad_response"),
    "null": Fault({"raw": "null"}, 502, "provider_bad_response"),
    "empty choices": Fault({"json": {"choices": [], "x": LEAK}}, 502, "provider_bad_response"),
    "choices of another type": Fault({"json": {"choices": {"0": LEAK}}}, 502, "provider_bad_response"),
    "a choice without a message": Fault({"json": {"choices": [{"text": LEAK}]}}, 502, "provider_bad_response"),
    "nested without end": Fault({"raw": "[" * 100_000}, 502, "provider_bad_response"),
    "not HTTP": Fault({"fault": "not_http"}, 502, "provider_bad_response"),
    "gzip": Fault({"fault": "gzip"}, 502, "provider_bad_response"),
    "gzip bomb": Fault({"fault": "gzip_bomb"}, 502, "provider_bad_response"),
    "100 MB": Fault({"fault": "large"}, 502, "provider_bad_response"),
    "without end": Fault({"fault": "endless"}, 502, "provider_bad_response"),
    "truncated": Fault({"fault": "truncated"}, 502, "provider_error"),
    "closed": Fault({"fault": "close"}, 502, "provider_error"),
    "reset": Fault({"fault": "reset"}, 502, "provider_error"),
}

MAX_GROWTH = 64 * 1024 * 1024


@pytest.mark.parametrize("fault", NOTHING_BILLED.values(), ids=NOTHING_BILLED.keys())
async def test_a_failure_that_cannot_have_been_billed_releases_the_hold(
    server: Server, upstream: Upstream, fault: Fault
) -> None:
    async with new_user(server) as caller:
        reply = await _fail(caller, upstream, fault)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("released", "none", fault.code)
        assert (charge["cost"], charge["forgiven"], charge["overrun"]) == (0, 0, False)
        assert reply.headers["X-Charge-ID"] == charge["id"]
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (0, 0)


@pytest.mark.parametrize("fault", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_unreadable_answer_costs_its_input(server: Server, upstream: Upstream, fault: Fault) -> None:
    async with new_user(server) as caller:
        reply = await _fail(caller, upstream, fault)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "unknown", fault.code)
        assert 0 < charge["cost"] < charge["held"]
        assert charge["cost"] + charge["forgiven"] == charge["held"]
        assert charge["output_tokens"] == 0
        assert reply.headers["X-Charge-ID"] == charge["id"]
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (charge["cost"], 0)
        assert (await caller.query(caller.marker)).status == 200


async def test_a_failure_that_the_retry_overcomes_is_not_visible_to_the_client(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        reply = await caller.query(scripted(caller.marker, status=503, fail_times=1), max_tokens=100)
        assert reply.status == 200
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "provider", None)
        assert charge["cost"] == reply.body["cost"]
        assert reply.headers["X-Charge-ID"] == charge["id"]
    assert [one["finished"] for one in upstream.requests(caller.marker)] == [True, True]


async def test_an_answer_of_any_size_needs_little_memory(server: Server) -> None:
    """Measured after a first failure, which loads the vocabulary for counting."""
    process = psutil.Process(server.program.pid)
    async with new_user(server) as caller:
        await caller.query(scripted(caller.marker, raw="garbage"))
        before = process.memory_info().rss
        for fault in ("large", "endless", "gzip_bomb"):
            assert (await caller.query(scripted(caller.marker, fault=fault))).status == 502
        assert process.memory_info().rss - before < MAX_GROWTH


async def test_unknown_outcomes_are_forgiven_up_to_5_percent_of_the_grant_and_then_charged_in_full(
    server: Server,
) -> None:
    async with new_user(server, limit=20_000, tenant_limit=1_000_000) as caller:
        prompt = scripted(caller.marker, raw="garbage")
        for _ in range(5):
            assert (await caller.query(prompt, max_tokens=300)).code == "provider_bad_response"
        charges = (await caller.charges())[::-1]
    forgiven = 0
    for charge in charges:
        rest = charge["held"] - charge["input_tokens"]
        if forgiven == 0 or forgiven + rest <= 1_000:
            assert (charge["forgiven"], charge["cost"]) == (rest, charge["input_tokens"])
            forgiven += rest
        else:
            assert (charge["forgiven"], charge["cost"]) == (0, charge["held"])
    assert [charge["forgiven"] > 0 for charge in charges] == [True, True, False, False, False]


async def test_one_unknown_outcome_is_forgiven_however_small_the_grant(server: Server) -> None:
    async with new_user(server, limit=2_000) as caller:
        prompt = scripted(caller.marker, raw="garbage")
        for _ in range(2):
            assert (await caller.query(prompt, max_tokens=500)).status == 502
        second, first = await caller.charges()
    assert first["forgiven"] > 100
    assert (second["forgiven"], second["cost"]) == (0, second["held"])
    assert "used up" in second["reason"]


async def _fail(caller: ApiUser, upstream: Upstream, fault: Fault) -> Reply:
    """Make a call that must fail as `fault` says, without any text of the upstream in the response."""
    reply = await caller.query(scripted(caller.marker, **fault.script), max_tokens=100)
    assert (reply.status, reply.code) == (fault.status, fault.code)
    assert LEAK not in f"{reply.body} {reply.headers}"
    assert reply.headers.get("Retry-After") == fault.retry_after
    assert reply.headers["X-Quota-Name"] == "user-total"
    assert len(upstream.requests(caller.marker)) == fault.requests
    assert upstream.requests_to(REDIRECT_TARGET) == 0
    return reply
