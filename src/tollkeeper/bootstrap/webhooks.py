"""Makes the parts of webhooks, and sends what is due beside a server or in a worker."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tollkeeper.api.dependencies import Services
from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.database.due_work import NOW_MS, OWN_INTERVAL_S, DueWork
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.settings import Settings
from tollkeeper.telemetry.task_runs import Task
from tollkeeper.webhooks.attempts import Attempts
from tollkeeper.webhooks.queue import has_due
from tollkeeper.webhooks.secrets import WebhookSecrets
from tollkeeper.webhooks.sender import WebhookSender
from tollkeeper.webhooks.upkeep import WebhookUpkeep

REQUEST_S = 15.0
"""How long a receiver may take. The Standard Webhooks specification ("Request timeouts") recommends 15 to 30 s."""


def make_webhook_client(settings: Settings) -> OutboundClient:
    """A client of its own: slow receivers take no room from single sign-on."""
    return OutboundClient(settings.private_networks, ca_file=settings.ca_file, total_s=REQUEST_S)


@asynccontextmanager
async def sending_webhooks(
    services: Services, metrics: ServerMetrics, due_work: DueWork, is_draining: Callable[[], bool]
) -> AsyncIterator[None]:
    """Send deliveries for the length of the block, unless the settings leave that to workers. `due_work` wakes the
    sender.
    """
    settings = services.settings
    if settings.webhooks == "off":
        metrics.task_runs.leave_out(Task.WEBHOOKS)
        yield
        return
    secrets = WebhookSecrets(services.data_keys)
    attempts = Attempts(services.database, services.webhook_client, secrets, services.audit_log, services.clock)
    sender = WebhookSender(
        services.database,
        attempts,
        services.clock,
        concurrency=settings.webhooks_concurrency,
        interval_s=OWN_INTERVAL_S,
        is_draining=is_draining,
    )
    upkeep = WebhookUpkeep(
        services.database,
        services.clock,
        days=settings.webhook_days,
        interval_s=settings.sweep_seconds,
        on_run=metrics.task_runs.note,
    )
    metrics.watch_webhooks(upkeep, attempts, sender)
    due_work.add(has_due(NOW_MS), sender.wake)
    upkeep.start()
    sender.start()
    try:
        yield
    finally:
        await sender.stop()
        await upkeep.stop()
