"""The server of the fake upstream: it serves the wires of providers, correctly or with faults, as a script says.

Run as `python -m journeys.upstream.server PORT LOG`. The last text of a user may have a script: `<<{"status": 429}>>`.
An answer is written to the log, and synced, before its first byte is sent. A client that disconnects ends a stream; a
whole answer is made and logged all the same. A word is a token.

The answer:
    answer          the text; streamed one word per chunk
    chunks          the text, as the exact deltas
    repeat          the text so many times, whatever the output limit
    over_generate   so many words, whatever the output limit
    obey_limit      true or false: cut at the request's limit in words, finish reason `length` (default: true,
                    but false with `repeat` and `over_generate`)
    reasoning       text of the reasoning before the answer
    refusal         text of a refusal in place of the answer
    tool_call       {"name": ..., "arguments": {...} or text}, or a list of them, in place of the answer unless `answer`
                    is given too; left out once a tool's result follows the user's text
    finish_reason   `stop`, `length`, `tool`, `refusal` in the wire's own word; any other as it is;
                    `failed` on the responses wire
    usage           any of {"input":, "output":, "cached":, "cache_write":, "reasoning":}, or the wire's own shape, or
                    any value; default: the words of input and output (a plain chat completion in JSON: 9 and 5)
    without_usage   true: none is reported
    json, raw       the document, or the text of the body
    status, headers of the response; from 300 on the body is the wire's error with SECRET-OF-THE-UPSTREAM in it
Timing and framing (chunks are events with text; in JSON, what a script sets after a chunk happens half-way):
    gate, delay     before anything else: wait until a gate is opened, then for seconds
    gate_after_log  a gate between the log and the first byte
    gate_after      [k, gate] or [[k, gate], ...]: gates after k chunks
    pace            seconds between chunks
    split_at        bytes per write
    coalesce        true: the whole body in one write
    comments_after  [k, times, seconds]: so many SSE comments after k chunks, each after so many seconds
    duplicate_frames, crlf, comments
                    true: every event twice; \\r\\n as line end; `: keep-alive` between events (blank lines in NDJSON)
Faults (after 0 chunks: before the first chunk, after the events ahead of it):
    fault           instead of an answer: see `upstream.faults`
    stall_after, reset_after, close_after
                    k chunks, then silence, a TCP reset, or the end of the connection
    reset_at_byte   a TCP reset after k bytes of the body
    garbage_after   k chunks, then bytes that are no event, and the proper end of the body
    error_after     k chunks, then the wire's error event with the secret in it, and the proper end of the body;
                    in JSON: a status of 500
    no_done         true: all events but the last, and the proper end of the body
    close_at_end    true: all events, and the end of the connection without the last chunk of HTTP's framing
The requests that a script applies to:
    fail_times      n: only the first n requests with this text fail (status, headers, raw, json and the faults)
    by_model        {model: script}: keys for one model only; its `fail_times` are counted apart
"""

import asyncio
import json
import os
import re
import signal
import sys
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from journeys.upstream.anthropic import Messages, anthropic_models, count_tokens
from journeys.upstream.connection import AnswerSender, ClientReader, Connection, ReceivedRequest
from journeys.upstream.faults import FAULTS
from journeys.upstream.ollama import OllamaChat, ollama_models
from journeys.upstream.openai import Chat, Embeddings, moderate, openai_models
from journeys.upstream.responses import Responses
from journeys.upstream.script import Answer, Body, Script, Scripts, Usage, plan
from journeys.upstream.wire import Wire, to_bytes

_AZURE = re.compile(r"^/openai/(v1|deployments/[^/]+)(?=/)")
"""The begin of Azure's addresses, for which `/v1` stands elsewhere."""
MODELS = ("gpt-4o-mini", "gpt-4.1", "text-embedding-3-small", "claude-sonnet-4-5", "llama3.2")
WIRES: dict[str, Wire] = {
    "/v1/chat/completions": Chat(),
    "/v1/responses": Responses(),
    "/v1/embeddings": Embeddings(),
    "/v1/messages": Messages(),
    "/v1/messages/count_tokens": Messages(),
    "/api/chat": OllamaChat(),
}


@dataclass
class UpstreamServer:
    """The state of the process."""

    log: int
    received: list[ReceivedRequest] = field(default_factory=list)
    scripts: Scripts = field(default_factory=Scripts)
    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    served: int = 0

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, ClientReader)
        connection = Connection(reader, writer)
        try:
            while (request := await connection.request()) is not None:
                if not await self._answer(request, connection):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            writer.close()

    async def _answer(self, request: ReceivedRequest, connection: Connection) -> bool:
        """Answer one request. Returns False when the connection has ended."""
        if request.path.startswith("/_"):
            await self._control(request, connection)
            return True
        self.received.append(request)

        def on_disconnect(_: asyncio.Future[None]) -> None:
            request.cancelled = not request.finished

        connection.reader.disconnected.add_done_callback(on_disconnect)
        try:
            keep_alive = await self._serve(request, connection)
            request.finished = keep_alive and not request.cancelled
        finally:
            connection.reader.disconnected.remove_done_callback(on_disconnect)
        return keep_alive

    async def _control(self, request: ReceivedRequest, connection: Connection) -> None:
        """Answer a control request: /_received, /_count and /_waiting return state, /_open opens a gate."""
        verb, _, argument = request.path[2:].partition("/")
        answer: Any = None
        match verb:
            case "received":
                answer = [one.to_json() for one in self.received if argument in one.body]
            case "count":
                answer = sum(1 for one in self.received if one.path == f"/{argument}")
            case "waiting":
                answer = self.waiting[argument]
            case "open":
                self.gates[argument].set()
        await connection.answer(200, {}, json.dumps(answer).encode())

    async def _serve(self, request: ReceivedRequest, connection: Connection) -> bool:
        path = _AZURE.sub("/v1", request.path.partition("?")[0])
        if request.method == "GET" and path in ("/v1/models", "/api/tags"):
            await connection.answer(200, {"Content-Type": "application/json"}, to_bytes(_list_models(path, request)))
            return True
        if request.method == "POST" and path == "/v1/moderations":
            await connection.answer(
                200, {"Content-Type": "application/json"}, to_bytes(moderate(json.loads(request.body)))
            )
            return True
        if request.method != "POST" or path not in WIRES:
            await connection.answer(404, {"Content-Type": "application/json"}, to_bytes(Chat().error(404)))
            return True
        wire, body = WIRES[path], json.loads(request.body)
        script = self.scripts.of(body)
        sender = AnswerSender(connection, script, wire, self._wait)
        if not path.endswith("/count_tokens") and wire.streams(body):
            return await connection.run_until_disconnected(self._handle(sender, request, body, script))
        return await self._handle(sender, request, body, script)

    async def _handle(self, sender: AnswerSender, request: ReceivedRequest, body: Body, script: Script) -> bool:
        connection, wire = sender.connection, sender.wire
        if "gate" in script:
            await self._wait(script["gate"])
        await asyncio.sleep(script.get("delay", 0))
        counts = request.path.partition("?")[0].endswith("/count_tokens")
        streams = wire.streams(body) and not counts
        limit = wire.limit(body)
        answer = plan(body, script, limit, plain_usage=wire.name == "chat" and not streams)
        document = count_tokens(answer) if counts else wire.document(body, answer, len(self.received))
        if "fault" in script:
            media_type = wire.media_type if streams else "application/json"
            return await FAULTS[script["fault"]](connection, media_type, to_bytes(document))
        status = script.get("status", 200)
        if "raw" in script or "json" in script or status >= 300:
            document = script.get("json", wire.error(status))
            streams = False
        content = script["raw"].encode() if "raw" in script else to_bytes(document)
        if status == 200 and not counts:
            self._log(wire, limit, answer, None if streams else content, streams=streams)
        if "gate_after_log" in script:
            await self._wait(script["gate_after_log"])
        if not streams:
            return await sender.document(status, content, request.note)
        return await sender.stream(wire.frames(body, answer, len(self.received)), request.note)

    async def _wait(self, gate: str) -> None:
        self.waiting[gate] += 1
        try:
            await self.gates[gate].wait()
        finally:
            self.waiting[gate] -= 1

    def _log(self, wire: Wire, limit: int | None, answer: Answer, content: bytes | None, *, streams: bool) -> None:
        """Log the usage of an answer before it is sent, as a provider that bills for it."""
        usage = answer.usage if answer.reported else None
        if content is not None:
            usage = _usage_in(content, usage)
        if usage is None:
            return
        self.served += 1
        entry = {"id": self.served, "wire": wire.name, "stream": streams, "limit": limit} | _counted(usage)
        os.write(self.log, json.dumps(entry).encode() + b"\n")
        os.fsync(self.log)


def _list_models(path: str, request: ReceivedRequest) -> dict[str, Any]:
    if path == "/api/tags":
        return ollama_models(MODELS)
    return anthropic_models(MODELS) if "anthropic-version" in request.headers else openai_models(MODELS)


def _usage_in(content: bytes, otherwise: Any) -> Any:
    """The usage in a whole answer. Ollama's has no `usage` object, so its usage is `otherwise`, from the script."""
    try:
        document = json.loads(content)
        return document["usage"] if "usage" in document or "done" not in document else otherwise
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _counted(usage: Any) -> dict[str, Any]:
    """The input and output tokens of a usage in any shape, and the usage itself."""
    if isinstance(usage, Usage):
        return {"input": usage.input, "output": usage.output, "usage": usage._asdict()}
    if not isinstance(usage, dict):
        return {"usage": usage}
    inputs = ("prompt_tokens", "input_tokens", "prompt_eval_count", "cache_read_input_tokens")
    outputs = ("completion_tokens", "output_tokens", "eval_count")
    try:
        tokens = [sum(usage.get(name) or 0 for name in names) for names in ((*inputs, _CACHE_WRITE), outputs)]
    except TypeError:
        return {"usage": usage}
    return {"input": tokens[0], "output": tokens[1], "usage": usage}


_CACHE_WRITE = "cache_creation_input_tokens"


async def main(port: int, log_path: str) -> None:
    log = os.open(log_path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    upstream = UpstreamServer(log)
    server = await loop.create_server(
        lambda: asyncio.StreamReaderProtocol(ClientReader(), upstream.serve_connection), "127.0.0.1", port, backlog=1024
    )
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
