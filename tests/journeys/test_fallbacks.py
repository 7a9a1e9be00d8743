"""Fallbacks on every endpoint: which model answers when a provider fails, the cost of each attempt, and no fallback."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.endpoints import STREAMING_ENDPOINTS, WEBSOCKET, WHOLE_ENDPOINTS, ClientCall, Endpoint, call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.many_users import many_users
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres

ANSWER = "one two three four five six seven"
RECEIVED_TEXT = "one two three"
USAGE = {"input": 11, "output": 7}
WEIGHT = 3
LIMIT = 100
CATALOG = """
closed = true
default = "on-chat"

[providers.chatty]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"
wires = ["chat/completions"]

[providers.messaging]
kind = "anthropic"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"

[providers.away]
kind = "openai"
base_url = "http://127.0.0.1:{unused_port}/v1"
api_key_env = "OPENAI_API_KEY"

[models.on-chat]
provider = "chatty"
fallbacks = ["then-messages"]

[models.on-messages]
provider = "messaging"
fallbacks = ["then-chat"]

[models.away]
provider = "away"
fallbacks = ["then-chat"]

[models.then-chat]
provider = "chatty"
weight = 3

[models.then-messages]
provider = "messaging"
weight = 3
"""


Script = Mapping[str, Any]


class Chain(NamedTuple):
    """A model and its fallback, on another provider's wire."""

    first: str
    then: str


CHAINS = (Chain("on-chat", "then-messages"), Chain("on-messages", "then-chat"))
UNREACHABLE = (Chain("away", "then-chat"),)


class Cell(NamedTuple):
    """A call with a script for each of a chain's models."""

    endpoint: Endpoint
    chain: Chain
    first: Script
    then: Script

    def __str__(self) -> str:
        return f"{self.endpoint.name} {self.chain.first} {self.first} {self.then}"

    def prompt(self, marker: str) -> str:
        models = {self.chain.first: self.first, self.chain.then: self.then}
        return scripted(marker, answer=ANSWER, usage=USAGE, by_model=models)


class Outcome(NamedTuple):
    """The result of a call: what the client received, the charge of each model, and the models that were requested."""

    call: ClientCall
    charges: dict[str, dict[str, Any]]
    used: int
    requested_models: list[str]


Check = Callable[[Cell, Outcome], None]


class Failure(NamedTuple):
    """How the first provider fails without billing: the error code of its charge, and the requests that it gets."""

    script: Script
    code: str
    requests: int = 1
    chains: tuple[Chain, ...] = CHAINS


FAILURES = (
    Failure({"status": 500}, "provider_error", requests=2),
    Failure({"status": 409}, "provider_error", requests=2),
    Failure({"json": {"error": {"message": SECRET, "code": 502}}}, "provider_error", requests=2),
    Failure({"error_after": 0}, "provider_error", requests=2),
    Failure({"status": 404}, "provider_error"),
    Failure({"status": 401}, "provider_auth_failed"),
    Failure({"status": 402}, "provider_auth_failed"),
    Failure({"status": 429, "headers": {"Retry-After": "7"}}, "provider_rate_limited"),
    Failure({}, "provider_unavailable", requests=0, chains=UNREACHABLE),
)


@pytest.fixture
def fallback_server(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A running server whose models have fallbacks. At the end no hold is open, and the ledger is consistent."""
    unused_port = ReservedPort()
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url, unused_port=unused_port.number))
    server = make_server(
        database_url, TOLLKEEPER_CATALOG=str(catalog), TOLLKEEPER_BREAKER_FAILURES="0", TOLLKEEPER_RATE_LIMIT_AI="off"
    )
    yield server.start()
    assert "open holds: 0\n" in server.command("ledger", "verify")
    asyncio.run(assert_ledger_is_consistent(database_url))
    server.stop()
    unused_port.free()


async def test_a_fallback_answers_after_an_unbilled_failure_and_each_attempt_has_a_charge(
    fallback_server: Server, upstream: Upstream
) -> None:
    for failure in FAILURES:

        def check(cell: Cell, outcome: Outcome, failure: Failure = failure) -> None:
            assert (outcome.call.status, outcome.call.answer.text) == (200, ANSWER), outcome.call.raw
            assert outcome.call.answer.error is None
            first, then = (outcome.charges[model] for model in cell.chain)
            _assert_released(first, failure.code)
            assert (then["state"], then["basis"]) == ("settled", "provider")
            assert then["cost"] == outcome.used == WEIGHT * sum(USAGE.values())
            assert then["held"] > WEIGHT * LIMIT, "the hold of the fallback is by its own weight"
            assert outcome.requested_models == [cell.chain.first] * failure.requests + [cell.chain.then]
            if cell.endpoint is not WEBSOCKET:
                assert outcome.call.headers["X-Charge-ID"] == then["id"]

        cells = [
            Cell(endpoint, chain, failure.script, {})
            for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS)
            for chain in failure.chains
        ]
        await _run_cells(fallback_server, upstream, cells, check)


async def test_when_all_models_fail_the_last_error_is_returned_and_nothing_is_charged(
    fallback_server: Server, upstream: Upstream
) -> None:
    limited: Script = {"status": 429, "headers": {"Retry-After": "7"}}

    def check(cell: Cell, outcome: Outcome) -> None:
        first, then = (outcome.charges[model] for model in cell.chain)
        expected = {429: (503, "provider_rate_limited"), 404: (502, "provider_error")}[cell.then["status"]]
        assert (outcome.call.status, outcome.call.code) == expected, outcome.call.raw
        if cell.endpoint is not WEBSOCKET:
            assert outcome.call.headers.get("Retry-After") == ("7" if expected[0] == 503 else None)
            assert outcome.call.headers["X-Charge-ID"] == then["id"]
        _assert_released(first, "provider_error" if cell.then is limited else "provider_rate_limited")
        _assert_released(then, expected[1])
        assert outcome.requested_models == [cell.chain.first] * (2 if cell.then is limited else 1) + [cell.chain.then]
        assert outcome.used == 0

    ends: list[tuple[Script, Script]] = [({"status": 500}, limited), (limited, {"status": 404})]
    cells = [
        Cell(endpoint, chain, *end)
        for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS)
        for chain in CHAINS
        for end in ends
    ]
    await _run_cells(fallback_server, upstream, cells, check)


async def test_after_the_first_word_no_fallback_is_called(fallback_server: Server, upstream: Upstream) -> None:
    def check(cell: Cell, outcome: Outcome) -> None:
        answer = outcome.call.answer
        assert (outcome.call.status, answer.text, answer.end_events) == (200, RECEIVED_TEXT, 0), outcome.call.raw
        assert answer.error is not None
        assert outcome.charges.keys() == {cell.chain.first}
        charge = outcome.charges[cell.chain.first]
        assert (charge["state"], charge["basis"]) == ("settled", "counted")
        assert charge["output_tokens"] == 3
        assert outcome.used == charge["cost"] == charge["input_tokens"] + 3
        assert outcome.requested_models == [cell.chain.first]

    breaks: list[Script] = [{"error_after": 3}, {"close_after": 3}]
    cells = [
        Cell(endpoint, chain, script, {}) for endpoint in STREAMING_ENDPOINTS for chain in CHAINS for script in breaks
    ]
    await _run_cells(fallback_server, upstream, cells, check)


async def test_no_fallback_follows_a_caller_error_or_a_failure_that_may_have_been_billed(
    fallback_server: Server, upstream: Upstream
) -> None:
    ends = {
        400: (400, "provider_rejected", "none"),
        408: (504, "provider_timeout", "unknown"),
        None: (502, "provider_error", "unknown"),
    }

    def check(cell: Cell, outcome: Outcome) -> None:
        *expected, basis = ends[cell.first.get("status")]
        assert [outcome.call.status, outcome.call.code] == expected, outcome.call.raw
        assert outcome.charges.keys() == {cell.chain.first}
        charge = outcome.charges[cell.chain.first]
        assert (charge["basis"], charge["error"]) == (basis, expected[1])
        assert (charge["cost"] > 0) == (basis == "unknown")
        assert outcome.used == charge["cost"]
        assert outcome.requested_models == [cell.chain.first]

    scripts: list[Script] = [{"status": 400}, {"status": 408}, {"fault": "close"}]
    cells = [
        Cell(endpoint, chain, script, {})
        for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS)
        for chain in CHAINS
        for script in scripts
    ]
    await _run_cells(fallback_server, upstream, cells, check)


def _assert_released(charge: dict[str, Any], code: str) -> None:
    assert (charge["state"], charge["basis"]) == ("released", "none"), charge
    assert (charge["error"], charge["cost"], charge["forgiven"]) == (code, 0, 0), charge


async def _run_cells(server: Server, upstream: Upstream, cells: list[Cell], check: Check) -> None:
    """Run all cells at once, each with a user of its own. Raises an ExceptionGroup of all cells that failed."""
    async with many_users(server, len(cells)) as users:
        runs = (_run_cell(upstream, cell, caller, check) for cell, caller in zip(cells, users, strict=True))
        ends = await asyncio.gather(*runs, return_exceptions=True)
    if wrong := [end for end in ends if isinstance(end, Exception)]:
        raise ExceptionGroup(f"{len(wrong)} of {len(cells)} cells", wrong)


async def _run_cell(upstream: Upstream, cell: Cell, caller: ApiUser, check: Check) -> None:
    try:
        client_call = await call(caller, cell.endpoint, cell.prompt(caller.marker), cell.chain.first, LIMIT)
        assert SECRET.encode() not in client_call.raw
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (quota := await caller.quota())["reserved"]:
                await asyncio.sleep(0.05)
        request = await asyncio.to_thread(upstream.requests, caller.marker)
        charges = await caller.charges()
        by_model = {one["model"]: one for one in charges}
        assert len(charges) == len(by_model), charges
        check(cell, Outcome(client_call, by_model, quota["used"], [one["body"]["model"] for one in request]))
    except Exception as error:
        error.add_note(f"at {cell}")
        raise
