"""Clients without an SDK: `curl -N`, and `urllib` of the standard library."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres

CHAT = "/v1/chat/completions"
STREAMING_PATHS = ["/ai/stream", "/ai/chat", CHAT, "/v1/responses", "/v1/messages"]


def body_for(path: str, prompt: str) -> dict[str, Any]:
    """The body of a streamed call to a path."""
    messages = [{"role": "user", "content": prompt}]
    match path:
        case "/ai/stream":
            return {"prompt": prompt}
        case "/ai/chat":
            return {"messages": messages, "stream": True}
        case "/v1/responses":
            return {"model": "gpt-4o-mini", "input": prompt, "stream": True}
        case "/v1/messages":
            return {"model": "gpt-4o-mini", "max_tokens": 50, "messages": messages, "stream": True}
    return {"model": "gpt-4o-mini", "messages": messages, "stream": True}


def text_in(line: str) -> str:
    """The text in a line of a stream, in any of the formats."""
    if not line.startswith("data: {"):
        return ""
    match json.loads(line.removeprefix("data: ")):
        case {"content": str(text)}:
            return text
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
    return ""


@pytest.mark.parametrize("path", STREAMING_PATHS)
async def test_curl_receives_each_chunk_as_it_arrives(
    server: Server, upstream: Upstream, tmp_path: Path, path: str
) -> None:
    """The upstream sends the second half of the answer only after curl has received the first."""
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, gate_after=[2, caller.marker], usage=USAGE)
        (tmp_path / "body").write_text(json.dumps(body_for(path, prompt)))
        curl = await _curl(server, caller, path, tmp_path)
        with upstream.gate(caller.marker):
            text, lines = "", []
            async with asyncio.timeout(TEST_DEADLINE_S):
                while text != "".join(CHUNKS[:2]):
                    lines.append((await curl.readline()).decode())
                    text += text_in(lines[-1])
        async with asyncio.timeout(TEST_DEADLINE_S):
            lines += (await curl.read()).decode().splitlines()
        assert "".join(map(text_in, lines)) == ANSWER
        if path in ("/ai/stream", "/ai/chat", CHAT):
            assert [line for line in lines if line.strip()][-1] == "data: [DONE]"
        assert await cost_of_all(caller, 1) == 24


async def test_a_killed_curl_pays_what_was_received(server: Server, upstream: Upstream, tmp_path: Path) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, gate_after=[2, caller.marker])
        (tmp_path / "body").write_text(json.dumps(body_for(CHAT, prompt)))
        with upstream.gate(caller.marker):
            process = await _start_curl(server, caller, CHAT, tmp_path)
            assert process.stdout is not None
            text = ""
            async with asyncio.timeout(TEST_DEADLINE_S):
                while text != "".join(CHUNKS[:2]):
                    text += text_in((await process.stdout.readline()).decode())
                process.kill()
                await process.wait()
                while (charge := (await caller.charges())[0])["state"] == "dispatched":
                    await asyncio.sleep(0.02)
        assert (charge["state"], charge["basis"]) == ("settled", "counted")
        assert 0 < charge["output_tokens"] <= 4
        assert upstream.sent(caller.marker)[0].cancelled


@pytest.mark.parametrize("path", STREAMING_PATHS)
async def test_urllib_reads_the_stream(server: Server, path: str) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)

        def read() -> list[str]:
            with urllib.request.urlopen(
                _request(server, caller, path, body_for(path, prompt)), timeout=TEST_DEADLINE_S
            ) as response:
                assert response.headers.get_content_type() == "text/event-stream"
                assert response.headers["X-Charge-ID"]
                return [line.decode().rstrip("\n") for line in response]

        assert "".join(map(text_in, await asyncio.to_thread(read))) == ANSWER
        assert await cost_of_all(caller, 1) == 24


async def test_urllib_gets_the_error_of_an_invalid_request(sdk_server: Server, caller: ApiUser) -> None:
    def send() -> tuple[int, Any]:
        request = _request(sdk_server, caller, CHAT, {"model": "gpt-4o-mini", "messages": [], "stream": True})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=TEST_DEADLINE_S)
        with caught.value as error:
            return error.code, json.load(error)

    status, body = await asyncio.to_thread(send)
    assert (status, body["error"]["param"]) == (400, "messages")


def _request(server: Server, caller: ApiUser, path: str, body: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json", **caller.auth_headers}
    return urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)


async def _curl(server: Server, caller: ApiUser, path: str, folder: Path) -> asyncio.StreamReader:
    process = await _start_curl(server, caller, path, folder)
    assert process.stdout is not None
    return process.stdout


async def _start_curl(server: Server, caller: ApiUser, path: str, folder: Path) -> asyncio.subprocess.Process:
    """Start `curl -N` with the body in the file `body` of a folder."""
    arguments = ["-N", "-sS", "--max-time", str(TEST_DEADLINE_S), "-H", "Content-Type: application/json"]
    arguments += ["-H", f"Authorization: Bearer {caller.token}", "--data-binary", f"@{folder / 'body'}"]
    return await asyncio.create_subprocess_exec("curl", *arguments, server.url + path, stdout=asyncio.subprocess.PIPE)
