"""The interface between the transport and an HTTP client, and the errors of both clients.

Each request is sent once: no retry, no redirect, no decompression.
"""

from collections.abc import Mapping
from typing import Protocol

MAX_INTERIM_RESPONSES = 16
"""How many 1xx responses may come before the response itself (RFC 9110, section 15.2 sets no number)."""


class HttpError(Exception):
    """No response, or no whole one."""


class ConnectFailed(HttpError):
    """There is no connection, or it was lost before the last byte of the request was written."""


class DeadlineExceeded(HttpError):
    """The response was not complete within its total time."""


class MalformedResponse(HttpError):
    """What was received is not HTTP/1.1, or is larger than allowed."""


class ConnectionLost(HttpError):
    """The connection ended before the response did. What the server did with the request is not known."""


class HttpResponse(Protocol):
    """A response whose head was received."""

    @property
    def status(self) -> int: ...

    def header(self, name: str) -> str | None:
        """The value of a header; of several with that name, the last."""
        ...

    async def whole(self) -> bytes:
        """The whole body. Raises HttpError, MalformedResponse for one above the `max_bytes` of the request."""
        ...

    async def read(self) -> bytes:
        """What was received since the last call, at least a byte; empty at the end. Raises HttpError."""
        ...

    def close(self) -> None:
        """Close the connection, unless the whole body was received: then it is kept alive."""
        ...


class HttpClient(Protocol):
    """Sends requests to one origin."""

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        total_s: float | None = None,
        max_bytes: int | None = None,
    ) -> HttpResponse:
        """Send a request, with these further headers, and wait for the head of the response.

        With `max_bytes`, the whole body is requested by `whole`: it may be awaited here already. `total_s` bounds
        everything, the body included. Raises HttpError.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
