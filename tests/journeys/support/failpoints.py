"""A launcher of the real application that kills its own process with SIGKILL at one named point.

The product has no code for this: `bootstrap` composes the application of a store and a provider that are wrapped here.
Run as `python -m journeys.support.failpoints POINT COUNT`: the process dies when it reaches POINT for the COUNTth time.
"""

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import uvicorn
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tollkeeper.alerts import detection
from tollkeeper.alerts.models import QuotaAlert
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.bootstrap.application import make_app
from tollkeeper.bootstrap.backends import Backends, make_backends
from tollkeeper.chat import Completion
from tollkeeper.jobs.repository import ClaimedJob
from tollkeeper.jobs.runner import JobRunner
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Provider, StreamChunk
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store
from tollkeeper.settings import load_settings

BEFORE_RESERVE_COMMIT = "before-reserve-commit"
AFTER_RESERVE_COMMIT = "after-reserve-commit"
AFTER_CLAIM = "after-claim"
BEFORE_DISPATCH_COMMIT = "before-dispatch-commit"
AFTER_DISPATCH_COMMIT = "after-dispatch-commit"
AFTER_UPSTREAM_ANSWERED = "after-upstream-answered"
BEFORE_SETTLE_COMMIT = "before-settle-commit"
AFTER_SETTLE_COMMIT = "after-settle-commit"
BEFORE_RESPONSE_IS_SENT = "before-response-is-sent"
BEFORE_ADMINISTRATIVE_COMMIT = "before-administrative-commit"
AFTER_ADMINISTRATIVE_COMMIT = "after-administrative-commit"
BEFORE_ALERT_COMMIT = "before-alert-commit"
AFTER_ALERT_COMMIT = "after-alert-commit"
POINTS = (
    BEFORE_RESERVE_COMMIT,
    AFTER_RESERVE_COMMIT,
    AFTER_UPSTREAM_ANSWERED,
    BEFORE_SETTLE_COMMIT,
    AFTER_SETTLE_COMMIT,
    BEFORE_RESPONSE_IS_SENT,
)
"""What a call reaches, in this order."""
JOB_POINTS = (
    BEFORE_RESERVE_COMMIT,
    AFTER_RESERVE_COMMIT,
    AFTER_CLAIM,
    BEFORE_DISPATCH_COMMIT,
    AFTER_DISPATCH_COMMIT,
    AFTER_UPSTREAM_ANSWERED,
    BEFORE_SETTLE_COMMIT,
    AFTER_SETTLE_COMMIT,
)
"""What a job reaches, in this order."""
ADMINISTRATIVE_POINTS = BEFORE_ADMINISTRATIVE_COMMIT, AFTER_ADMINISTRATIVE_COMMIT
"""What a change of a limit, a grant or a refund reaches, in the ledger."""
ALERT_POINTS = BEFORE_ALERT_COMMIT, AFTER_ALERT_COMMIT
"""What a server reaches that fires alerts."""


@dataclass(eq=False)
class Failpoint:
    """Kills the process when `name` is reached for the `left`th time."""

    name: str
    left: int

    def reached(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DyingStore:
    """A store with failpoints around its commits."""

    store: Store
    failpoint: Failpoint

    @property
    def lost_reason(self) -> str | None:
        return self.store.lost_reason

    @property
    def refuses_calls(self) -> bool:
        return self.store.refuses_calls

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        pages: list[Page] = []

        def deciding(page: Page) -> None:
            decide(page)
            pages.append(page)
            if page.new_charges:
                self.failpoint.reached(BEFORE_RESERVE_COMMIT)
            if _dispatches(page):
                self.failpoint.reached(BEFORE_DISPATCH_COMMIT)
            if _settles(page):
                self.failpoint.reached(BEFORE_SETTLE_COMMIT)
            if _administers(page):
                self.failpoint.reached(BEFORE_ADMINISTRATIVE_COMMIT)

        await self.store.run(read_set, deciding)
        if pages[-1].new_charges:
            self.failpoint.reached(AFTER_RESERVE_COMMIT)
        if _dispatches(pages[-1]):
            self.failpoint.reached(AFTER_DISPATCH_COMMIT)
        if _settles(pages[-1]):
            self.failpoint.reached(AFTER_SETTLE_COMMIT)
        if _administers(pages[-1]):
            self.failpoint.reached(AFTER_ADMINISTRATIVE_COMMIT)

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        return await self.store.find_lapsed(limit)

    async def delete_old_keys(self, limit: int) -> int:
        return await self.store.delete_old_keys(limit)

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        return await self.store.delete_free_charges(min_age_ms, limit)

    async def probe(self) -> None:
        await self.store.probe()

    async def close(self) -> None:
        await self.store.close()


def _dispatches(page: Page) -> bool:
    return any(job.status == "processing" for job in page.changed_jobs.values())


def _settles(page: Page) -> bool:
    return any(charge.closed_by == "settle" for charge in page.changed_charges.values())


def _administers(page: Page) -> bool:
    return any(entry.kind in ("limit", "grant", "refund") for entry in page.new_entries)


@dataclass(frozen=True)
class DyingProvider:
    """A provider with a failpoint after each answer."""

    provider: Provider
    failpoint: Failpoint

    @property
    def name(self) -> str:
        return self.provider.name

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        return self.provider.prepare(model, call_input, stream=stream)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        completion = await self.provider.complete(prepared, max_output)
        self.failpoint.reached(AFTER_UPSTREAM_ANSWERED)
        return completion

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        async with aclosing(self.provider.stream(prepared, max_output)) as chunks:
            async for chunk in chunks:
                yield chunk
        self.failpoint.reached(AFTER_UPSTREAM_ANSWERED)

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return await self.provider.bound_input(prepared)

    async def count_input(self, prepared: PreparedCall) -> int:
        return await self.provider.count_input(prepared)

    async def count_output(self, text: str) -> int:
        return await self.provider.count_output(text)

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return await self.provider.truncate_output(text, max_tokens)

    async def close(self) -> None:
        await self.provider.close()


@dataclass(frozen=True)
class DyingApp:
    """An application with a failpoint before the response of a call is sent."""

    app: ASGIApp
    failpoint: Failpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if scope["type"] == "http" and scope["path"] == "/ai/query" and message["type"] == "http.response.start":
                self.failpoint.reached(BEFORE_RESPONSE_IS_SENT)
            await send(message)

        await self.app(scope, receive, sending)


def let_claims_die(failpoint: Failpoint) -> None:
    """Reach a failpoint after each commit of a claim."""
    claim = JobRunner._claim

    async def dying(runner: JobRunner) -> ClaimedJob | None:
        claimed = await claim(runner)
        if claimed is not None:
            failpoint.reached(AFTER_CLAIM)
        return claimed

    JobRunner._claim = dying  # type: ignore[method-assign,assignment]


def let_alerts_die(failpoint: Failpoint) -> None:
    """Reach a failpoint before and after each commit of alerts."""
    fire, note = detection.fire, QuotaAlerts._note

    async def dying(session: AsyncSession, alerts: list[QuotaAlert]) -> list[QuotaAlert]:
        fired = await fire(session, alerts)
        failpoint.reached(BEFORE_ALERT_COMMIT)
        return fired

    def dying_after(task: QuotaAlerts, fired: list[QuotaAlert]) -> None:
        failpoint.reached(AFTER_ALERT_COMMIT)
        note(task, fired)

    detection.fire = dying
    QuotaAlerts._note = dying_after  # type: ignore[method-assign,assignment]


def main(point: str, count: int) -> None:
    assert point in POINTS + JOB_POINTS + ADMINISTRATIVE_POINTS + ALERT_POINTS
    failpoint = Failpoint(point, count)
    let_claims_die(failpoint)
    let_alerts_die(failpoint)
    settings = load_settings()
    backends = make_backends(settings)
    provider: Provider = DyingProvider(backends.catalog.default_provider, failpoint)

    def find(name: str) -> Model:
        return replace(backends.catalog.model(name), provider=provider)

    catalog = Catalog(backends.catalog.default_name, find, provider)
    app = make_app(settings, Backends(DyingStore(backends.store, failpoint), catalog, backends.spill))
    uvicorn.run(DyingApp(app, failpoint), host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
