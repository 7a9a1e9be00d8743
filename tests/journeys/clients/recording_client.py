"""A client of OpenAI's that is watched from inside: what it sends of its own accord, and what it hears."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from journeys.support.server import Server
from journeys.support.users import Person


@dataclass
class Watched:
    """The paths of all requests, retries among them, and the status of each answer that came."""

    sent: list[str] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)

    async def note_request(self, request: httpx2.Request) -> None:
        self.sent.append(request.url.path)

    async def note_response(self, response: httpx2.Response) -> None:
        self.heard.append(response.status_code)


@asynccontextmanager
async def watched(server: Server, caller: Person, **options: Any) -> AsyncIterator[tuple[AsyncOpenAI, Watched]]:
    """The client of a caller. `options` are those of the client."""
    notes = Watched()
    http = DefaultAsyncHttpxClient(event_hooks={"request": [notes.note_request], "response": [notes.note_response]})
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token, http_client=http, **options) as client:
        yield client, notes
