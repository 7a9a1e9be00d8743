"""Batches with the `openai` and the `anthropic` client, and their defaults."""

import asyncio
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic.types.messages import MessageBatch
from openai import OpenAI
from openai.types import Batch

from journeys.clients.samples import USAGE
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH

LINES = MESSAGES = 1_000 if DEPTH.every_cell else 100
MODEL = "gpt-4o-mini"
FAILING = 7
"""The line that the upstream refuses."""
COST = USAGE["input"] + USAGE["output"]


def prompt_of(caller: ApiUser, number: int) -> str:
    script: dict[str, Any] = {"status": 400} if number == FAILING else {"usage": USAGE, "answer": f"answer {number}"}
    return scripted(caller.marker, **script)


@pytest.mark.prove_only_on_postgres
async def test_openai_s_client_runs_a_batch_of_many_lines(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=100_000_000) as caller:
        await asyncio.to_thread(_run_openai, server, caller)
        await _assert_charged(server, caller, upstream, LINES)


def _run_openai(server: Server, caller: ApiUser) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "max_tokens": 50,
                "messages": [{"role": "user", "content": prompt_of(caller, number)}],
            },
        }
        for number in range(LINES)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    with OpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client:
        file = client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch")
        assert (file.bytes, file.filename, file.purpose) == (len(content), "lines.jsonl", "batch")
        assert client.files.content(file.id).read() == content
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"of": "a test"},
        )
        assert batch.status == "validating"
        ended: Batch = _wait_for(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "completed")
        assert ended.request_counts is not None
        counts = ended.request_counts
        assert (counts.total, counts.completed, counts.failed) == (LINES, LINES - 1, 1)
        assert ended.metadata == {"of": "a test"}
        assert [one.id for one in client.batches.list(limit=1)] == [batch.id]
        assert ended.output_file_id is not None
        assert ended.error_file_id is not None
        results = [json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()]
        [failure] = [json.loads(line) for line in client.files.content(ended.error_file_id).text.splitlines()]
        assert {one.id for one in client.files.list()} == {file.id, ended.output_file_id, ended.error_file_id}
        assert [one.id for one in client.files.list(purpose="batch")] == [file.id]
        assert client.files.delete(file.id).deleted
    answers = {one["custom_id"]: one["response"] for one in results}
    assert answers.keys() == {f"line-{number}" for number in range(LINES) if number != FAILING}
    assert {one["status_code"] for one in answers.values()} == {200}
    texts = {id_: one["body"]["choices"][0]["message"]["content"] for id_, one in answers.items()}
    assert texts == {id_: f"answer {id_.removeprefix('line-')}" for id_ in answers}
    assert (failure["custom_id"], failure["response"]["status_code"]) == (f"line-{FAILING}", 400)
    assert failure["response"]["body"]["error"]["type"] == "invalid_request_error"


@pytest.mark.prove_only_on_postgres
@pytest.mark.proof
async def test_anthropic_s_client_runs_a_batch_of_messages(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=100_000_000) as caller:
        await asyncio.to_thread(_run_anthropic, server, caller)
        await _assert_charged(server, caller, upstream, MESSAGES)


def _run_anthropic(server: Server, caller: ApiUser) -> None:
    with Anthropic(base_url=server.url, api_key=caller.token) as client:
        batch = client.messages.batches.create(
            requests=[
                {
                    "custom_id": f"line-{number}",
                    "params": {
                        "model": MODEL,
                        "max_tokens": 50,
                        "messages": [{"role": "user", "content": prompt_of(caller, number)}],
                    },
                }
                for number in range(MESSAGES)
            ]
        )
        assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", MESSAGES)
        ended: MessageBatch = _wait_for(
            lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended"
        )
        assert (ended.request_counts.succeeded, ended.request_counts.errored) == (MESSAGES - 1, 1)
        assert [one.id for one in client.messages.batches.list()] == [batch.id]
        results = {one.custom_id: one.result for one in client.messages.batches.results(batch.id)}
        assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
        assert [one.id for one in client.messages.batches.list()] == []
    assert len(results) == MESSAGES
    failure = results.pop(f"line-{FAILING}")
    assert failure.type == "errored"
    assert failure.error.error.type == "invalid_request_error"
    texts = {}
    for line_id, result in results.items():
        assert result.type == "succeeded"
        [block] = result.message.content
        assert block.type == "text"
        texts[line_id] = block.text
    assert texts == {id_: f"answer {id_.removeprefix('line-')}" for id_ in results}


def _wait_for(read: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + TEST_DEADLINE_S
    while not is_there(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


async def _assert_charged(server: Server, caller: ApiUser, upstream: Upstream, calls: int) -> None:
    """Each call was requested once, and all but the one that failed are charged as reported."""
    assert len(upstream.requests(caller.marker)) == calls
    quota = await caller.quota()
    assert (quota["used"], quota["reserved"]) == ((calls - 1) * COST, 0)
    first = (await caller.get("/me/charges?limit=100")).body["data"]
    assert {charge["surface"] for charge in first} == {"batches"}
    await assert_ledger_is_consistent(server.database_url)
