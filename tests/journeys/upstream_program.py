"""The upstream of the journeys: a process that speaks OpenAI's chat-completions wire, well or badly, as it is told.

A prompt may carry its script: `<<{"status": 429}>>`. What was served is written to a log of its own, and synced, before
the first byte of the answer goes out. Run as: python -m journeys.upstream_program PORT LOG
"""

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import struct
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

SCRIPT = re.compile(r"<<(\{.*\})>>", re.DOTALL)
DEFAULT_ANSWER = "The upstream says hello."
CHUNK = b"x" * 65_536
ENDLESS_BYTES = 400 * 1024 * 1024
"""An endless body ends here, so that nothing runs away if nobody hangs up."""


@dataclass
class Seen:
    """One request as it arrived. `body` is the text of it."""

    path: str
    headers: dict[str, str]
    body: str
    finished: bool = False


@dataclass
class Upstream:
    """What the process remembers."""

    log: int
    seen: list[Seen] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    served: int = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._answer(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Seen, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is over."""
        if request.path.startswith("/_"):
            await self._control(request, writer)
            return True
        self.seen.append(request)
        kept = await self._chat(request, writer)
        request.finished = True
        return kept

    async def _control(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        """/_seen, /_requests and /_waiting answer; /_open lets go whoever waits at a gate."""
        verb, _, argument = request.path[2:].partition("/")
        answer: Any = None
        match verb:
            case "seen":
                answer = [one.__dict__ for one in self.seen if argument in one.body]
            case "requests":
                answer = sum(1 for one in self.seen if one.path == f"/{argument}")
            case "waiting":
                answer = self.waiting[argument]
            case "open":
                self.gates[argument].set()
        await _send(writer, 200, {}, json.dumps(answer).encode())

    async def _chat(self, request: Seen, writer: asyncio.StreamWriter) -> bool:
        body = json.loads(request.body or '{"messages": [{"content": ""}]}')
        script = _script(body)
        await self._wait(script.get("gate"))
        await asyncio.sleep(script.get("delay", 0))
        if (fault := script.get("fault")) is not None:
            return await _FAULTS[fault](writer)
        status = script.get("status", 200)
        content = script["raw"].encode() if "raw" in script else json.dumps(_completion(body, script)).encode()
        if status == 200:
            self._log(body, content)
        await self._wait(script.get("gate_after_log"))
        headers = {"Content-Type": "application/json"} | script.get("headers", {})
        await _send(writer, status, headers, content)
        return True

    async def _wait(self, gate: str | None) -> None:
        if gate is None:
            return
        self.waiting[gate] += 1
        try:
            await self.gates[gate].wait()
        finally:
            self.waiting[gate] -= 1

    def _log(self, body: dict[str, Any], content: bytes) -> None:
        """Keep what is about to be served: whoever reads the log may bill for it."""
        try:
            usage = json.loads(content)["usage"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        self.served += 1
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        line = {"id": self.served, "limit": limit, "usage": usage}
        os.write(self.log, json.dumps(line).encode() + b"\n")
        os.fsync(self.log)


def _script(body: dict[str, Any]) -> dict[str, Any]:
    found = SCRIPT.search(body["messages"][-1]["content"])
    return json.loads(found[1]) if found else {}


def _completion(body: dict[str, Any], script: dict[str, Any]) -> Any:
    """A chat completion as OpenAI's reference shows it, with what the script changes of it."""
    if "json" in script:
        return script["json"]
    answer = script.get("answer", DEFAULT_ANSWER) * script.get("repeat", 1)
    completion: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer, "refusal": None},
                "logprobs": None,
                "finish_reason": script.get("finish_reason", "stop"),
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        "system_fingerprint": "fp_1",
    }
    if "usage" in script:
        completion["usage"] = script["usage"]
    if script.get("without_usage"):
        del completion["usage"]
    return completion


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(line.split(" ")[1], headers, body.decode())


async def _send(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    writer.write(head.encode() + body)
    await writer.drain()


async def _reset(writer: asyncio.StreamWriter) -> bool:
    """A TCP reset instead of an answer."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
    return False


async def _close(writer: asyncio.StreamWriter) -> bool:
    """The connection closed in good order instead of an answer."""
    return False


async def _hang(writer: asyncio.StreamWriter) -> bool:
    """Nothing, until the other side is gone."""
    while not writer.is_closing():
        await asyncio.sleep(0.05)
    return False


async def _truncated(writer: asyncio.StreamWriter) -> bool:
    """Half of what Content-Length promises."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{"id": "chatcmpl')
    await writer.drain()
    return False


async def _stalled(writer: asyncio.StreamWriter) -> bool:
    """Half of an answer, and then nothing."""
    await _truncated(writer)
    return await _hang(writer)


async def _not_http(writer: asyncio.StreamWriter) -> bool:
    """Bytes that are no HTTP at all."""
    writer.write(b"\x00\x01\x02 SECRET-OF-THE-UPSTREAM this is not HTTP\r\n\r\n")
    await writer.drain()
    return False


async def _large(writer: asyncio.StreamWriter) -> bool:
    """A body of 100 MB, announced."""
    size = 100 * 1024 * 1024
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
    for _ in range(size // len(CHUNK)):
        writer.write(CHUNK)
        await writer.drain()
    return True


async def _endless(writer: asyncio.StreamWriter) -> bool:
    """A chunked body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(ENDLESS_BYTES // len(CHUNK)):
        writer.write(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK))
        await writer.drain()
    return False


async def _gzip_bomb(writer: asyncio.StreamWriter) -> bool:
    """50 KB that unpack to 50 MB."""
    await _send(writer, 200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 50_000_000, 9))
    return True


async def _gzip(writer: asyncio.StreamWriter) -> bool:
    """A good answer, packed, though nobody said that they can unpack it."""
    answer = json.dumps(_completion({"model": "gpt-4o-mini"}, {})).encode()
    await _send(writer, 200, {"Content-Encoding": "gzip"}, gzip.compress(answer))
    return True


_FAULTS = {
    "reset": _reset,
    "close": _close,
    "hang": _hang,
    "truncated": _truncated,
    "stalled": _stalled,
    "not_http": _not_http,
    "large": _large,
    "endless": _endless,
    "gzip_bomb": _gzip_bomb,
    "gzip": _gzip,
}


async def main(port: int, log_path: str) -> None:
    log = os.open(log_path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await asyncio.start_server(Upstream(log).connected, "127.0.0.1", port, backlog=1024, limit=1 << 20)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
