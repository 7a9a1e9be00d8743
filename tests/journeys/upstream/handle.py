"""The upstream process as a test sees it: where it is, what it got, what it says it served."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from journeys.support.processes import Program, ReservedPort, clean_environment
from patience import PATIENCE_S


class Served(NamedTuple):
    """A line of the upstream's own log. `limit` is the output limit that the request came with."""

    limit: int | None
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Sent(NamedTuple):
    """What was put on the line in answer to one streamed request, and how that ended.

    A word is a token. `text` holds everything that was said, part by part: reasoning, text, refusal, arguments.
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
        self._program.wait_for_answer(self._control("seen/nothing"))

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def base_url(self) -> str:
        """Where OpenAI's wires are."""
        return f"{self.anthropic_url}/v1"

    @property
    def anthropic_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ollama_url(self) -> str:
        return self.anthropic_url

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it, for a line that leads here."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    def seen(self, marker: str) -> list[dict[str, Any]]:
        """The requests whose body contains `marker`, in the order of their arrival; the body is parsed.

        Each is {method, path, headers, body, finished, cancelled, sent_chunks, sent_text, sent_tokens, sent}, the last
        by part of the answer. `finished`: all is on the line. `cancelled`: the other side was gone before that.
        """
        found: list[dict[str, Any]] = self._get(f"seen/{marker}")
        return [one | {"body": json.loads(one["body"])} for one in found]

    def sent(self, marker: str) -> list[Sent]:
        """What was put on the line in answer to the requests whose body contains `marker`, in their order."""
        return [
            Sent(one["sent_chunks"], one["sent_text"], one["sent_tokens"], one["finished"], one["cancelled"])
            for one in self._get(f"seen/{marker}")
        ]

    def requests_to(self, path: str) -> int:
        """How many requests went to a path."""
        return int(self._get(f"requests{path}"))

    def waiting(self, gate: str) -> int:
        """How many requests wait at a gate."""
        return int(self._get(f"waiting/{gate}"))

    def open(self, gate: str) -> None:
        """Let go whoever waits at a gate, now and from now on."""
        self._get(f"open/{gate}")

    @contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """Nobody is left waiting at this gate, however the block ends."""
        try:
            yield
        finally:
            self.open(name)

    def served(self) -> list[Served]:
        """The upstream's own log of what it served."""
        lines = map(json.loads, self._log.read_text().splitlines())
        return [Served(line["limit"], line["input"], line["output"]) for line in lines]

    def stop(self) -> None:
        self._program.kill()
        self._port.free()
        assert "Traceback" not in self._program.output, self._program.output

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._control(path), timeout=PATIENCE_S) as response:
            return json.load(response)

    def _control(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/_{path}"


def scripted(marker: str, **script: Any) -> str:
    """A prompt that tells the upstream what to do: see `upstream_program`. `marker` finds it again in `seen`."""
    return f"{marker} <<{json.dumps(script)}>>"
