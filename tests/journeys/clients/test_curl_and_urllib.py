"""Whoever has no client of their own: `curl -N`, and the plain library of Python."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, cost_of_all
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

CHAT = "/v1/chat/completions"
DOORS = ["/ai/stream", "/ai/chat", CHAT, "/v1/responses", "/v1/messages"]


def body_for(door: str, prompt: str) -> dict[str, Any]:
    """A streamed call through a door."""
    messages = [{"role": "user", "content": prompt}]
    match door:
        case "/ai/stream":
            return {"prompt": prompt}
        case "/ai/chat":
            return {"messages": messages, "stream": True}
        case "/v1/responses":
            return {"model": "gpt-4o-mini", "input": prompt, "stream": True}
        case "/v1/messages":
            return {"model": "gpt-4o-mini", "max_tokens": 50, "messages": messages, "stream": True}
    return {"model": "gpt-4o-mini", "messages": messages, "stream": True}


def said_in(line: str) -> str:
    """What a line of a stream says, on any of the wires."""
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


@pytest.mark.parametrize("door", DOORS)
async def test_curl_hears_each_piece_as_it_comes(server: Server, upstream: Upstream, tmp_path: Path, door: str) -> None:
    """The second half of the answer is let go only when the first is there."""
    async with person(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, gate_after=[2, caller.marker], usage=USAGE)
        (tmp_path / "body").write_text(json.dumps(body_for(door, prompt)))
        curl = await _curl(server, caller, door, tmp_path)
        with upstream.gate(caller.marker):
            said, lines = "", []
            async with asyncio.timeout(PATIENCE_S):
                while said != "".join(CHUNKS[:2]):
                    lines.append((await curl.readline()).decode())
                    said += said_in(lines[-1])
        async with asyncio.timeout(PATIENCE_S):
            lines += (await curl.read()).decode().splitlines()
        assert "".join(map(said_in, lines)) == ANSWER
        if door in ("/ai/stream", "/ai/chat", CHAT):
            assert [line for line in lines if line.strip()][-1] == "data: [DONE]"
        assert await cost_of_all(caller, 1) == 24


async def test_curl_that_is_ended_pays_for_what_it_heard(server: Server, upstream: Upstream, tmp_path: Path) -> None:
    async with person(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, gate_after=[2, caller.marker])
        (tmp_path / "body").write_text(json.dumps(body_for(CHAT, prompt)))
        with upstream.gate(caller.marker):
            process = await _start_curl(server, caller, CHAT, tmp_path)
            assert process.stdout is not None
            said = ""
            async with asyncio.timeout(PATIENCE_S):
                while said != "".join(CHUNKS[:2]):
                    said += said_in((await process.stdout.readline()).decode())
                process.kill()
                await process.wait()
                while (charge := (await caller.charges())[0])["state"] == "dispatched":
                    await asyncio.sleep(0.02)
        assert (charge["state"], charge["basis"]) == ("settled", "counted")
        assert 0 < charge["output_tokens"] <= 4
        assert upstream.sent(caller.marker)[0].cancelled


@pytest.mark.parametrize("door", DOORS)
async def test_the_plain_library_reads_the_stream(server: Server, door: str) -> None:
    async with person(server) as caller:
        prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)

        def read() -> list[str]:
            with urllib.request.urlopen(
                _request(server, caller, door, body_for(door, prompt)), timeout=PATIENCE_S
            ) as response:
                assert response.headers.get_content_type() == "text/event-stream"
                assert response.headers["X-Charge-ID"]
                return [line.decode().rstrip("\n") for line in response]

        assert "".join(map(said_in, await asyncio.to_thread(read))) == ANSWER
        assert await cost_of_all(caller, 1) == 24


async def test_the_plain_library_is_told_what_is_wrong(house: Server, caller: Person) -> None:
    def ask() -> tuple[int, Any]:
        request = _request(house, caller, CHAT, {"model": "gpt-4o-mini", "messages": [], "stream": True})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        with caught.value as error:
            return error.code, json.load(error)

    status, body = await asyncio.to_thread(ask)
    assert (status, body["error"]["param"]) == (400, "messages")


def _request(server: Server, caller: Person, door: str, body: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json", **caller.bearer}
    return urllib.request.Request(server.url + door, json.dumps(body).encode(), headers)


async def _curl(server: Server, caller: Person, door: str, folder: Path) -> asyncio.StreamReader:
    process = await _start_curl(server, caller, door, folder)
    assert process.stdout is not None
    return process.stdout


async def _start_curl(server: Server, caller: Person, door: str, folder: Path) -> asyncio.subprocess.Process:
    """`curl -N`; the body is in a file of the folder."""
    arguments = ["-N", "-sS", "--max-time", str(PATIENCE_S), "-H", "Content-Type: application/json"]
    arguments += ["-H", f"Authorization: Bearer {caller.token}", "--data-binary", f"@{folder / 'body'}"]
    return await asyncio.create_subprocess_exec("curl", *arguments, server.url + door, stdout=asyncio.subprocess.PIPE)
