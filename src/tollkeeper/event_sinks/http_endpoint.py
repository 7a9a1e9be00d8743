"""Sends lines, or what else can be joined into one body, to an HTTP endpoint of the operator: a POST for each batch."""

import asyncio
from collections.abc import Sequence

from pydantic import SecretStr

from tollkeeper.errors import OutboundFailed, OutboundRefused, Overloaded
from tollkeeper.event_sinks.sink import LinesRejected, SinkFailed
from tollkeeper.outbound.client import OutboundClient

JSON_LINES = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"
OPERATOR = 0
"""Stands for a tenant, whose requests the client counts: no tenant has this id."""
_REJECTED = frozenset({400, 413, 415, 422})
"""Statuses with which an endpoint refuses a batch for its content. Others may pass, or are the operator's to mend."""


class HttpEndpoint:
    """Sends to `url`, with the `token` as bearer token, through the guard of the `client`. It follows no redirect.

    Made in the thread that uses it: it has an event loop of its own there.
    """

    def __init__(
        self, client: OutboundClient, url: str, token: SecretStr | None, content_type: str = JSON_LINES
    ) -> None:
        self._client = client
        self._url = url
        self._headers = {"Content-Type": content_type}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        self._runner = asyncio.Runner()

    def write(self, lines: Sequence[bytes]) -> None:
        """Raises SinkFailed; LinesRejected if the endpoint refuses the lines for their content."""
        request = self._client.post(self._url, b"".join(lines), self._headers, tenant_id=OPERATOR)
        try:
            status = self._runner.run(request).status
        except (OutboundRefused, OutboundFailed, Overloaded) as error:
            raise SinkFailed(error.detail) from None
        if status in _REJECTED:
            raise LinesRejected(f"The endpoint answered {status}.")
        if not 200 <= status < 300:
            raise SinkFailed(f"The endpoint answered {status}.")

    def close(self) -> None:
        self._runner.close()
        self._client.close()
