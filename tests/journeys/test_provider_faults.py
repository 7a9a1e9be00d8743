"""The provider fails: what the caller hears, what the ledger books, and that whatever may be billed is asked once."""

from typing import Any, NamedTuple

import psutil
import pytest

from journeys.support.server import Server
from journeys.support.users import Person, Reply, person
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.exhaustive_on_postgres

LEAK = "SECRET-OF-THE-UPSTREAM"
FOLLOWED = "/v1/followed"
SAID = {"raw": f'{{"error": {{"message": "{LEAK}"}}}}'}


class Fault(NamedTuple):
    """What the upstream does, what the caller must hear, and how often the upstream is asked."""

    script: dict[str, Any]
    status: int
    code: str
    retry_after: str | None = None
    asked: int = 1


def _too_many(said: str | None, heard: str) -> Fault:
    headers = {"Retry-After": said} if said is not None else {}
    return Fault({"status": 429, "headers": headers} | SAID, 503, "provider_rate_limited", heard)


NOTHING_BILLED = {
    "401": Fault({"status": 401} | SAID, 502, "provider_auth_failed"),
    "402": Fault({"status": 402} | SAID, 502, "provider_auth_failed"),
    "403": Fault({"status": 403} | SAID, 502, "provider_auth_failed"),
    "429": _too_many("7", heard="7"),
    "429 without a time": _too_many(None, heard="1"),
    "429 with a date": _too_many("Fri, 31 Dec 1999 23:59:59 GMT", heard="1"),
    "429 with nonsense": _too_many(f"-5 {LEAK}", heard="1"),
    "429 for a year": _too_many("31536000", heard="3600"),
    "400": Fault({"status": 400} | SAID, 400, "provider_rejected"),
    "413": Fault({"status": 413} | SAID, 400, "provider_rejected"),
    "422": Fault({"status": 422} | SAID, 400, "provider_rejected"),
    "404": Fault({"status": 404} | SAID, 502, "provider_error"),
    "409": Fault({"status": 409} | SAID, 502, "provider_error", asked=2),
    "500": Fault({"status": 500} | SAID, 502, "provider_error", asked=2),
    "503": Fault({"status": 503, "headers": {"Retry-After": "9"}} | SAID, 502, "provider_error", asked=2),
    "529": Fault({"status": 529} | SAID, 502, "provider_error", asked=2),
    "302": Fault({"status": 302, "headers": {"Location": FOLLOWED}} | SAID, 502, "provider_error", asked=2),
    "308": Fault({"status": 308, "headers": {"Location": FOLLOWED}} | SAID, 502, "provider_error", asked=2),
}

UNREADABLE = {
    "408": Fault({"status": 408} | SAID, 504, "provider_timeout"),
    "204": Fault({"status": 204, "raw": ""}, 502, "provider_bad_response"),
    "206": Fault({"status": 206} | SAID, 502, "provider_bad_response"),
    "garbage": Fault({"raw": f"<html>{LEAK}</html>"}, 502, "provider_bad_response"),
    "an empty body": Fault({"raw": ""}, 502, "provider_bad_response"),
    "half a document": Fault({"raw": f'{{"choices": [{{"message": {{"content": "{LEAK}'}, 502, "provider_bad_response"),
    "a list": Fault({"raw": f'["{LEAK}"]'}, 502, "provider_bad_response"),
    "null": Fault({"raw": "null"}, 502, "provider_bad_response"),
    "no choices": Fault(SAID, 502, "provider_bad_response"),
    "empty choices": Fault({"json": {"choices": [], "x": LEAK}}, 502, "provider_bad_response"),
    "choices of another type": Fault({"json": {"choices": {"0": LEAK}}}, 502, "provider_bad_response"),
    "a choice without a message": Fault({"json": {"choices": [{"text": LEAK}]}}, 502, "provider_bad_response"),
    "a content that is no text": Fault(
        {"json": {"choices": [{"message": {"content": {"text": LEAK}}}]}}, 502, "provider_bad_response"
    ),
    "NaN in the usage": Fault(
        {"raw": f'{{"choices": [{{"message": {{"content": "{LEAK}"}}}}], "usage": {{"prompt_tokens": NaN}}}}'},
        502,
        "provider_bad_response",
    ),
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
async def test_what_cannot_have_been_billed_is_given_back(server: Server, upstream: Upstream, fault: Fault) -> None:
    async with person(server) as caller:
        reply = await _fail(caller, upstream, fault)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("released", "none", fault.code)
        assert (charge["cost"], charge["forgiven"], charge["overrun"]) == (0, 0, False)
        assert reply.headers["X-Charge-ID"] == charge["id"]
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (0, 0)


@pytest.mark.parametrize("fault", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_of_an_answer_that_cannot_be_read_the_input_is_paid(
    server: Server, upstream: Upstream, fault: Fault
) -> None:
    async with person(server) as caller:
        reply = await _fail(caller, upstream, fault)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "unknown", fault.code)
        assert 0 < charge["cost"] < charge["held"]
        assert charge["cost"] + charge["forgiven"] == charge["held"]
        assert charge["output_tokens"] == 0
        assert reply.headers["X-Charge-ID"] == charge["id"]
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (charge["cost"], 0)
        assert (await caller.ask(caller.marker)).status == 200


async def test_a_failure_that_is_over_when_it_is_tried_again_is_not_heard(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        reply = await caller.ask(scripted(caller.marker, status=503, fail_times=1), max_tokens=100)
        assert reply.status == 200
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "provider", None)
        assert charge["cost"] == reply.body["cost"]
        assert reply.headers["X-Charge-ID"] == charge["id"]
    assert [one["finished"] for one in upstream.seen(caller.marker)] == [True, True]


async def test_an_answer_of_any_size_takes_little_memory(server: Server) -> None:
    """Measured after a first failure, which loads the vocabulary that inputs are counted with."""
    process = psutil.Process(server.program.pid)
    async with person(server) as caller:
        await caller.ask(scripted(caller.marker, raw="garbage"))
        before = process.memory_info().rss
        for fault in ("large", "endless", "gzip_bomb"):
            assert (await caller.ask(scripted(caller.marker, fault=fault))).status == 502
        assert process.memory_info().rss - before < MAX_GROWTH


async def test_unknown_outcomes_are_forgiven_up_to_5_percent_of_the_grant_and_then_charged_in_full(
    server: Server,
) -> None:
    async with person(server, limit=20_000, tenant_limit=1_000_000) as caller:
        prompt = scripted(caller.marker, raw="garbage")
        for _ in range(5):
            assert (await caller.ask(prompt, max_tokens=300)).code == "provider_bad_response"
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
    async with person(server, limit=2_000) as caller:
        prompt = scripted(caller.marker, raw="garbage")
        for _ in range(2):
            assert (await caller.ask(prompt, max_tokens=500)).status == 502
        second, first = await caller.charges()
    assert first["forgiven"] > 100
    assert (second["forgiven"], second["cost"]) == (0, second["held"])
    assert "used up" in second["reason"]


async def _fail(caller: Person, upstream: Upstream, fault: Fault) -> Reply:
    """A call that fails as it should, with as many requests as may be, and nothing of what the upstream said."""
    reply = await caller.ask(scripted(caller.marker, **fault.script), max_tokens=100)
    assert (reply.status, reply.code) == (fault.status, fault.code)
    assert LEAK not in f"{reply.body} {reply.headers}"
    assert reply.headers.get("Retry-After") == fault.retry_after
    assert reply.headers["X-Quota-Name"] == "user-total"
    assert len(upstream.seen(caller.marker)) == fault.asked
    assert upstream.requests_to(FOLLOWED) == 0
    return reply
