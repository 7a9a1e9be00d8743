"""The endpoints under /ai whose requests can be background jobs."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import problem_details
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native.chat import CHAT
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.parsed_request import ParsedRequest
from tollkeeper.api.native.query import QUERY
from tollkeeper.errors import TollkeeperError, UnsupportedParameter
from tollkeeper.jobs.kinds import JobKind
from tollkeeper.principal import Principal
from tollkeeper.retrieval.search import Passage

ENDPOINTS = {endpoint.path: endpoint for endpoint in (QUERY, CHAT)}
NOT_IN_JOBS = ("session_id", "stream")
"""Fields of these endpoints that a job cannot have."""
SURFACE = "jobs"
"""The surface of the charges of jobs."""


class _RequestWithPassages(msgspec.Struct):
    """The request of a job, with the passages that were found when it was submitted: it was reserved with them."""

    request: msgspec.Raw
    passages: list[Passage]


def read_request(caller: Principal, path: str, body: bytes) -> ParsedRequest[Any]:
    """Read the request of a job to the endpoint of this path.

    Raises InvalidJson, InvalidRequest; UnsupportedParameter for `session_id`, because earlier messages would not be
    those of the submission any more when the job starts, and for `stream`.
    """
    parsed: ParsedRequest[Any] = ENDPOINTS[path].parse(caller, body)
    for name in NOT_IN_JOBS:
        if getattr(parsed.request, name, None):
            raise UnsupportedParameter(f"{name} is not supported in jobs.", parameter=name)
    parsed.surface = SURFACE
    return parsed


async def open_request(services: Services, caller: Principal, path: str, parsed: ParsedRequest[Any]) -> NativeExchange:
    """The exchange of a request that was read. Without passages, those that it asks for are found."""
    prepare = ENDPOINTS[path].prepare
    assert prepare is not None
    exchange = await prepare(services, caller, parsed)
    assert isinstance(exchange, NativeExchange)
    return exchange


def body_to_store(body: bytes, exchange: NativeExchange) -> bytes:
    """What is stored of a request, to be opened by the NativeKind."""
    passages = exchange.call.passages
    if passages is None:
        return body
    return msgspec.json.encode(_RequestWithPassages(msgspec.Raw(body), list(passages)))


class NativeKind:
    """Jobs of one of these endpoints."""

    def __init__(self, services: Services, endpoint: MeteredEndpoint) -> None:
        self._services = services
        self._endpoint = endpoint

    async def open(self, caller: Principal, body: bytes) -> NativeExchange:
        path, passages = self._endpoint.path, None
        if body.startswith(b'{"request":'):  # which is no field of a request
            stored = msgspec.json.decode(body, type=_RequestWithPassages)
            body, passages = bytes(stored.request), stored.passages
        parsed = read_request(caller, path, body)
        parsed.passages = passages
        return await open_request(self._services, caller, path, parsed)

    def render_error(self, error: TollkeeperError, _read_request: Callable[[], bytes]) -> bytes:
        _, problem, _ = problem_details(error)
        return orjson.dumps(problem)


def job_kinds(services: Services) -> Mapping[str, JobKind]:
    """The kinds of jobs of a server with these services, by the paths of their endpoints."""
    return {path: NativeKind(services, endpoint) for path, endpoint in ENDPOINTS.items()}
