"""A running server writes both events of every call, on every endpoint, to the log, the file and the HTTP endpoint."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journeys.support.collector import collecting
from journeys.support.endpoints import ALL_ENDPOINTS, NATIVE_STREAM, WEBSOCKET, call, open_call
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from support.deadlines import TEST_DEADLINE_S
from support.event_schema import read_events, responses_in

PROMPT = "a confidential prompt"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACED = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


async def make_calls(caller: ApiUser) -> int:
    """Call each endpoint, with and without success. Returns the number of calls."""
    for endpoint in ALL_ENDPOINTS:
        headers = {} if endpoint.is_socket else TRACED
        assert (await call(caller, endpoint, PROMPT, "echo", more=headers)).status == 200
    for path, body in (
        ("/ai/estimate", {"prompt": PROMPT}),
        ("/ai/query", {"prompt": PROMPT, "model": "unknown"}),
        ("/ai/query", {"prompt": PROMPT, "max_tokens": 10**6, "cache": 7}),
        ("/v1/messages", {"model": "echo"}),
        ("/v1/messages/count_tokens", {"model": "echo", "messages": [{"role": "user", "content": PROMPT}]}),
    ):
        async with caller.http.post(path, json=body, headers=caller.auth_headers) as response:
            await response.read()
    for _ in range(2):
        assert (await call(caller, NATIVE_STREAM, PROMPT, "echo", more={"Idempotency-Key": "k"})).status == 200
    async with open_call(caller, WEBSOCKET, PROMPT, "echo", more={"prompt": 7}) as refused:
        await refused.read_all()
    limited = await caller.with_api_key(surfaces=["chat"])
    assert (await limited.query(PROMPT)).status == 403
    return len(ALL_ENDPOINTS) + 5 + 2 + 1 + 1


async def test_every_call_on_every_endpoint_has_both_events_in_every_sink(
    make_server: Callable[..., Server], sqlite_url: str, tmp_path: Path
) -> None:
    """The HTTP endpoint is away at first: its events wait, and no call does."""
    port, path = ReservedPort(), tmp_path / "events" / "events.jsonl"
    server = make_server(
        sqlite_url,
        OPENAI_API_KEY="",
        TOLLKEEPER_EVENTS_FILE=str(path),
        TOLLKEEPER_EVENTS_URL=f"http://127.0.0.1:{port.number}/events",
        TOLLKEEPER_EVENTS_NETWORKS="127.0.0.0/8",
    ).start()
    async with new_user(server) as caller:
        calls = await make_calls(caller)
        charges = {charge["id"]: charge for charge in await caller.charges()}
    port.free()
    async with collecting(port.number, "/events") as collector, asyncio.timeout(TEST_DEADLINE_S):
        while b"".join(collector.bodies).count(b"\n") < 2 * calls:
            await asyncio.sleep(0.05)
    server.stop()

    content = path.read_bytes()
    assert sorted(b"".join(collector.bodies).splitlines()) == sorted(content.splitlines())
    assert PROMPT.encode() not in content
    events = list(read_events(content))
    assert len(events) == 2 * calls
    assert sum(event["trace_id"] == TRACE_ID for event in events) == 2 * sum(
        not endpoint.is_socket for endpoint in ALL_ENDPOINTS
    )
    responses = responses_in(content)
    written = {one["charge"]["id"]: one for one in responses if one["charge"] is not None}
    assert written.keys() == charges.keys()
    for charge_id, charge in charges.items():
        assert_same_call(written[charge_id], charge)
    assert {one["status"] for one in responses} == {"succeeded", "refused", "replayed"}
    lines = [json.loads(line) for line in server.program.output.splitlines() if '"event":"ai.' in line]
    assert [line["event_id"] for line in lines] == [event["event_id"] for event in events]


def assert_same_call(data: dict[str, Any], charge: dict[str, Any]) -> None:
    assert data["surface"] == charge["surface"]
    assert data["charge"]["cost_tokens"] == charge["cost"]
    assert data["charge"]["basis"] == charge["basis"]
