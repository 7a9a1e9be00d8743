"""GET /admin/events: the events of calls as server-sent events, those of the last minutes and those to come.

They are of the process that answers. The stream ends when the login does, and when the server stops.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tollkeeper.administration import tenants
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT
from tollkeeper.api.bearer import client_address, credentials_of
from tollkeeper.api.dependencies import scope_of
from tollkeeper.dialects.sse import PING
from tollkeeper.errors import DatabaseUnavailable, Forbidden, Overloaded, Unauthenticated
from tollkeeper.gateway.ai_events import RESPONSE, encode_both
from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.gateway.event_tail import EventReader
from tollkeeper.principal import Access, Role

RECHECK_S = 1.0
"""How often the login is checked again: so long after it has ended, the stream does."""
WAIT_S = 0.5
PING_S = 15.0
"""After so long without an event, a comment is sent, so that proxies keep the connection."""
_SUFFIX = RESPONSE.removeprefix("ai.")

router = APIRouter(prefix="/admin/events", tags=["admin"])


class ServerSentEvents(StreamingResponse):
    """A stream of server-sent events."""

    media_type = "text/event-stream"


class _EventStream(ServerSentEvents):
    """The events of calls. A reader exists only while the response is sent, so none outlives its client."""

    def __init__(self, caller: AdminCaller, tenant_id: int | None, after: str | None, *, follow: bool) -> None:
        super().__init__((), headers={"X-Accel-Buffering": "no"})
        self._caller = caller
        self._tenant_id = tenant_id
        self._after_span = after.removesuffix(f"-{_SUFFIX}") if after is not None else None
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tail = self._caller.services.event_tail
        with tail.read(self._caller.principal, self._tenant_id, self._after_span) as reader:
            self.body_iterator = _events(self._caller, reader) if self._follow else _only(_rendered(*reader.take()))
            await super().__call__(scope, receive, send)


@router.get("", response_class=ServerSentEvents, responses=NO_TENANT, summary="The events of calls, as they happen")
async def follow_events(
    caller: TenantAdmin,
    tenant_id: Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])] = None,
    follow: Annotated[bool, Query(description="Stay, and send what happens.", examples=[False])] = False,
    last_event_id: Annotated[
        str | None,
        Header(
            max_length=64,
            description="The `id` of the last event that the caller has.",
            examples=["b7ad6b7169203331-response"],
        ),
    ] = None,
) -> ServerSentEvents:
    """Of your tenant; for operators, of all tenants, or of one. The events `ai.response` of the newest calls of the
    process that answers, the oldest first, as server-sent events; with `follow`, then those of each call that ends. An
    event `dropped` says how many a slow reader has missed.
    """
    of_all = tenant_id is None and caller.principal.role is Role.OPERATOR
    wanted = None if of_all else await tenants.wanted_tenant(caller.admin, tenant_id)
    return _EventStream(caller, wanted, last_event_id, follow=follow)


async def _only(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _events(caller: AdminCaller, reader: EventReader) -> AsyncIterator[bytes]:
    """The events until the login ends or the server stops."""
    yield _rendered(*reader.take())
    checked_at = sent_at = time.monotonic()
    while not caller.services.event_tail.is_draining():
        await reader.wait(WAIT_S)
        now = time.monotonic()
        if now - checked_at >= RECHECK_S:
            if not await _is_still_allowed(caller):
                return
            checked_at = now
        content = _rendered(*reader.take()) or (PING if now - sent_at >= PING_S else b"")
        if content:
            sent_at = now
            yield content


async def _is_still_allowed(caller: AdminCaller) -> bool:
    """Whether the login with which the stream began is valid. An outage of the database ends no stream."""
    services, scope, principal = caller.services, caller.request.scope, caller.principal
    for credential in credentials_of(scope):
        with suppress(Unauthenticated, Forbidden):
            if await services.authenticator.verify(credential, Access.ADMIN, client_address(scope)) == principal:
                break
    else:
        return False
    try:
        async with services.database.session(scope_of(principal, Access.ADMIN)) as session:
            await services.authenticator.load_account(session, principal)
    except Unauthenticated:
        return False
    except (DatabaseUnavailable, Overloaded):
        return True
    return True


def _rendered(dropped: int, events: Sequence[CallEvent]) -> bytes:
    parts = [b'event: dropped\ndata: {"events":%d}\n\n' % dropped] if dropped else []
    for event in events:
        _, response = encode_both(event)
        name, span = RESPONSE.encode(), event.trace.span_id.encode()
        parts.append(b"event: %b\nid: %b-%b\ndata: %b\n\n" % (name, span, _SUFFIX.encode(), response))
    return b"".join(parts)
