"""The handle of an upstream process: its URLs, the requests that it received, its gates, and its log."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from journeys.support.processes import Program, ReservedPort, clean_environment
from support.deadlines import TEST_DEADLINE_S


class Served(NamedTuple):
    """A line of the upstream's own log. `limit` is the output limit of the request."""

    limit: int | None
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Sent(NamedTuple):
    """What the upstream sent in answer to one streamed request.

    A word is a token. `text` has the parts of the answer one after another: reasoning, text, refusal, arguments.
    """

    chunks: int
    text: str
    tokens: int
    finished: bool
    cancelled: bool


class Upstream:
    """A handle on one upstream process."""

    def __init__(self, folder: Path) -> None:
        self._port = ReservedPort()
        self._log = folder / "served.log"
        self._program = Program(
            ["journeys.upstream.server", str(self._port.number), str(self._log)],
            environment=clean_environment({}),
            folder=folder,
            output=folder / "upstream.out",
        )
        self._program.wait_for_answer(self._control("received/nothing"))

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def base_url(self) -> str:
        """The base URL of OpenAI's wires."""
        return f"{self.anthropic_url}/v1"

    @property
    def anthropic_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ollama_url(self) -> str:
        return self.anthropic_url

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the upstream, for a TCP proxy."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    def requests(self, marker: str) -> list[dict[str, Any]]:
        """The requests whose body contains `marker`, in the order of their arrival, with the body decoded.


        Each is {method, path, headers, body, finished, cancelled, sent_chunks, sent_text, sent_tokens, sent}; `sent`
        has the text of each part. `finished`: the whole answer was sent. `cancelled`: the client disconnected before.
        """
        found: list[dict[str, Any]] = self._get(f"received/{marker}")
        return [one | {"body": json.loads(one["body"])} for one in found]

    def sent(self, marker: str) -> list[Sent]:
        """What was sent in answer to the requests whose body contains `marker`, in their order."""
        return [
            Sent(one["sent_chunks"], one["sent_text"], one["sent_tokens"], one["finished"], one["cancelled"])
            for one in self._get(f"received/{marker}")
        ]

    def requests_to(self, path: str) -> int:
        """The number of requests to a path."""
        return int(self._get(f"count{path}"))

    def waiting(self, gate: str) -> int:
        """The number of requests that wait at a gate."""
        return int(self._get(f"waiting/{gate}"))

    def open(self, gate: str) -> None:
        """Open a gate: requests pass it now and from now on."""
        self._get(f"open/{gate}")

    @contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """Open the gate at the end of the block, also after an exception."""
        try:
            yield
        finally:
            self.open(name)

    def served(self) -> list[Served]:
        """The upstream's log of the answers that it served."""
        lines = map(json.loads, self._log.read_text().splitlines())
        return [Served(line["limit"], line["input"], line["output"]) for line in lines]

    def stop(self) -> None:
        self._program.kill()
        self._port.free()
        assert "Traceback" not in self._program.output, self._program.output

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._control(path), timeout=TEST_DEADLINE_S) as response:
            return json.load(response)

    def _control(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/_{path}"


def scripted(marker: str, **script: Any) -> str:
    """A prompt with a script for the upstream: see `upstream.server`. `requests(marker)` finds its requests."""
    return f"{marker} <<{json.dumps(script)}>>"
