"""JSON documents of OpenID providers, kept for a while: discovery documents and key sets."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import orjson

from tollkeeper.clock import Clock
from tollkeeper.errors import OutboundError, OutboundFailed
from tollkeeper.outbound.client import OutboundClient

VALID_MS = 600_000
RETRY_MS = 5_000
"""After a failure, the document is not requested for this long."""
MAX_DOCUMENTS = 200


@dataclass(slots=True)
class _Entry:
    document: dict[str, Any] | None = None
    error: OutboundError | None = None
    fetched_ms: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Documents:
    """Fetches documents. Those who ask for one at the same time share one request."""

    def __init__(self, outbound: OutboundClient, clock: Clock) -> None:
        self._outbound = outbound
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def get(self, url: str, *, tenant_id: int, max_age_ms: int = VALID_MS) -> dict[str, Any]:
        """The JSON object at the URL, at most this old, for this tenant. Raises OutboundError, Overloaded."""
        entry = self._entries.setdefault(url, _Entry())
        self._entries.move_to_end(url)
        if len(self._entries) > MAX_DOCUMENTS:
            self._entries.popitem(last=False)
        async with entry.lock:
            age_ms = self._clock.now_ms() - entry.fetched_ms
            if entry.error is not None and age_ms < RETRY_MS:
                raise type(entry.error)(entry.error.detail)
            if entry.document is not None and age_ms < max_age_ms:
                return entry.document
            entry.document = entry.error = None
            try:
                entry.document = await self._fetch(url, tenant_id)
            except OutboundError as error:
                entry.error = error
                raise
            finally:
                entry.fetched_ms = self._clock.now_ms()
            return entry.document

    async def _fetch(self, url: str, tenant_id: int) -> dict[str, Any]:
        response = await self._outbound.get(url, tenant_id=tenant_id)
        if response.status != 200:
            raise OutboundFailed(f"The identity provider answered {response.status} where its configuration should be.")
        return parse_object(response.body)


def parse_object(body: bytes) -> dict[str, Any]:
    """Raises OutboundFailed unless the body is a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise OutboundFailed("The identity provider's response is not a JSON object.")
    return document
