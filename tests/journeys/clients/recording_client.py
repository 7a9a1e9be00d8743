"""OpenAI's client with hooks that record its requests, retries among them, and the statuses of the responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from journeys.support.server import Server
from journeys.support.users import ApiUser


@dataclass
class Recorded:
    """The paths of all requests, retries among them, and the status of each response."""

    sent: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def record_request(self, request: httpx2.Request) -> None:
        self.sent.append(request.url.path)

    async def record_response(self, response: httpx2.Response) -> None:
        self.statuses.append(response.status_code)


@asynccontextmanager
async def recording_client(
    server: Server, caller: ApiUser, **options: Any
) -> AsyncIterator[tuple[AsyncOpenAI, Recorded]]:
    """OpenAI's client with the caller's credential. `options` are those of the client."""
    recorded = Recorded()
    http = DefaultAsyncHttpxClient(
        event_hooks={"request": [recorded.record_request], "response": [recorded.record_response]}
    )
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token, http_client=http, **options) as client:
        yield client, recorded
