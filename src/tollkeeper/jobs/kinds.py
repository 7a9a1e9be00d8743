"""What a job needs of the endpoint whose request it is."""

from collections.abc import Callable, Mapping
from typing import Protocol

from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal


class JobExchange(Protocol):
    """The request of a job, and its response. Rendering has no effect outside of the exchange."""

    @property
    def call(self) -> ModelCall:
        """The call that the request asks for."""
        ...

    def render(self, result: CallResult) -> bytes:
        """The body of the response."""
        ...


class JobKind(Protocol):
    """An endpoint whose requests can be jobs."""

    async def open(self, caller: Principal, body: bytes) -> JobExchange:
        """Read a request. Raises InputError."""
        ...

    def render_error(self, error: TollkeeperError, read_request: Callable[[], bytes]) -> bytes:
        """The body of the response for an error. `read_request` returns the request, for what needs it."""
        ...


JobKinds = Mapping[str, JobKind]
"""By the paths of the endpoints."""
