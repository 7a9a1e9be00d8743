"""Sends what is due in the outbox. Webhooks take turns, and none can take all the room."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import structlog

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.webhooks import queue
from tollkeeper.webhooks.attempts import Attempts
from tollkeeper.webhooks.queue import FIRST, Claimed, Position

INTERVAL_S = 1.0
"""How often a process looks for deliveries that are due, by default."""
MAX_PER_TENANT = 8
MAX_PER_WEBHOOK = 4
"""Requests at a time, of one process. A webhook whose last attempt has failed has one."""
MAX_TURNS = 100
"""At most so many webhooks are looked at in one go."""
STOP_S = 5.0
"""How long requests that run may go on when the process stops. What is cut off is sent again after its lease."""

log = structlog.get_logger("tollkeeper.webhooks")


class WebhookSender:
    """Sends at most `concurrency` deliveries at a time, and starts none while the server `is_draining`."""

    def __init__(
        self,
        database: Database,
        attempts: Attempts,
        clock: Clock,
        *,
        concurrency: int,
        interval_s: float = INTERVAL_S,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._clock = clock
        self._concurrency = concurrency
        self._interval_s = interval_s
        self._is_draining = is_draining
        self._last = FIRST
        self._tasks: dict[asyncio.Task[None], Position] = {}
        self._woken = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many requests run."""
        return len(self._tasks)

    def wake(self) -> None:
        """Look for due deliveries now."""
        self._woken.set()

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """Wait a little for the requests that run; then cut them off."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send_due(self) -> int:
        """Start to send what is due and has room. Returns how many. Raises DatabaseUnavailable."""
        room = self._concurrency - len(self._tasks)
        if room <= 0 or self._is_draining():
            return 0
        claimed = await self._claim(room)
        for one in claimed:
            self._start(one)
        return len(claimed)

    async def _claim(self, room: int) -> list[Claimed]:
        claimed: list[Claimed] = []
        of_webhook = Counter(self._tasks.values())
        of_tenant = Counter(position.tenant_id for position in self._tasks.values())
        async with self._database.session() as session:
            now_ms = self._clock.now_ms()
            for webhook in await queue.list_due(session, self._last, now_ms, MAX_TURNS):
                position = Position(webhook.tenant_id, webhook.id)
                most = 1 if webhook.failures else MAX_PER_WEBHOOK
                room_of_tenant = MAX_PER_TENANT - of_tenant[webhook.tenant_id]
                slots = min(room - len(claimed), room_of_tenant, most - of_webhook[position])
                if slots > 0:
                    found = await queue.claim(session, webhook, now_ms, slots)
                    of_tenant[webhook.tenant_id] += len(found)
                    claimed += found
                    self._last = position
        return claimed

    def _start(self, claimed: Claimed) -> None:
        task = asyncio.create_task(self._make(claimed), name="webhook-delivery")
        self._tasks[task] = Position(claimed.webhook.tenant_id, claimed.webhook.id)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.wake()

    async def _make(self, claimed: Claimed) -> None:
        try:
            await self._attempts.make(claimed)
        except DatabaseUnavailable:
            log.warning("webhooks.not_noted", reason="the database does not respond")
        except Exception:
            log.exception("webhooks.not_noted")

    async def _run(self) -> None:
        """Look for due deliveries when a request has ended, when woken, and each `interval_s`."""
        is_out = False
        while True:
            try:
                await self.send_due()
                is_out = False
            except DatabaseUnavailable:
                if not is_out:
                    log.warning("webhooks.waiting", reason="the database does not respond")
                is_out = True
            except Exception:
                log.exception("webhooks.not_sent")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._woken.wait()
            self._woken.clear()
