"""The periodic tasks beside the server that depend on nothing but the database."""

from typing import Protocol

from tollkeeper.administration.automatic_archive import AutomaticArchive
from tollkeeper.audit_log.head_log import HeadLog
from tollkeeper.bootstrap.workers import OneOfSeveral
from tollkeeper.clock import Clock
from tollkeeper.contents.retention import ContentRetention
from tollkeeper.conversations.retention import ConversationRetention
from tollkeeper.database.engine import Database
from tollkeeper.identity.cleanup import IdentityCleanup
from tollkeeper.quota.partition_maker import PartitionMaker
from tollkeeper.settings import Settings
from tollkeeper.telemetry.task_runs import Task, TaskRuns


class PeriodicTask(Protocol):
    """Runs from `start` until `stop`."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


def make_cleanups(
    settings: Settings, database: Database, clock: Clock, runs: TaskRuns, one: OneOfSeveral | None
) -> list[PeriodicTask]:
    """The tasks of this process. Of several workers, the first has those of which one per server is enough."""
    on_run = runs.note
    tasks: list[PeriodicTask] = [
        PartitionMaker(database, on_run=on_run),
        ConversationRetention(database, days=settings.conversation_days, clock=clock, on_run=on_run),
        ContentRetention(database, max_days=settings.content_days, clock=clock, on_run=on_run),
        IdentityCleanup(database, clock, on_run=on_run),
    ]
    is_first = one is None or one.number == 1
    if is_first:
        tasks.append(HeadLog(database, clock, on_run=on_run))
    else:
        runs.leave_out(Task.AUDIT_HEADS)
    if is_first and settings.archive_by_server == "on":
        months = settings.archive_months
        tasks.append(AutomaticArchive(database, settings.database_url, clock, months=months, on_run=on_run))
    else:
        runs.leave_out(Task.ARCHIVE)
    return tasks
