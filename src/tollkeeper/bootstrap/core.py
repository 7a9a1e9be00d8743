"""Opens what everything else in a server stands on: the database, identity, the ledger, and what calls share."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from tollkeeper.bootstrap.backends import Backends
from tollkeeper.bootstrap.database_check import check_schema
from tollkeeper.bootstrap.gateway import CallParts, configure_calls, make_call_parts
from tollkeeper.bootstrap.identity import IdentityParts, make_identity
from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.bootstrap.webhooks import make_webhook_client
from tollkeeper.clock import Clock
from tollkeeper.configuration.live import LiveConfiguration
from tollkeeper.database.engine import Database
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that others are made of."""

    settings: Settings
    clock: Clock
    database: Database
    identity: IdentityParts
    ledger: Ledger
    calls: CallParts
    configuration: LiveConfiguration
    webhook_client: OutboundClient


async def open_core(
    stack: AsyncExitStack,
    settings: Settings,
    backends: Backends,
    clock: Clock,
    metrics: ServerMetrics,
    throttle: Throttle,
) -> Core:
    """Open them, with a ledger that takes calls. `stack` closes them: the ledger commits what is queued.

    Raises ConfigurationError, SchemaMissing, DatabaseUnavailable.
    """
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    stack.push_async_callback(database.close)
    identity = make_identity(settings, database, clock)
    stack.callback(identity.outbound.close)
    stack.callback(identity.passwords.close)
    webhook_client = make_webhook_client(settings)
    stack.callback(webhook_client.close)
    stack.push_async_callback(backends.catalog.close)
    ledger = make_ledger(settings, backends.store, metrics.batches)
    stack.push_async_callback(ledger.stop, keep_unbooked=backends.spill.write)
    await check_schema(database, prepared_statements=settings.prepared_statements)
    await identity.load(database, clock)
    calls = make_call_parts(settings, database, identity.data_keys, clock)
    configure = partial(configure_calls, backends.catalog, identity.data_keys, calls, throttle)
    configuration = LiveConfiguration(database, configure, on_run=metrics.task_runs.note)
    await configuration.refresh()
    ledger.start()
    await backends.spill.book(ledger, partial(queries.tenant_of, database))
    return Core(settings, clock, database, identity, ledger, calls, configuration, webhook_client)
