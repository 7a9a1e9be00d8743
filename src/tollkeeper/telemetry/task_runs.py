"""The runs of background tasks: whether they succeed, and when they last did."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class Task(StrEnum):
    """The background tasks of a server."""

    SWEEP = "sweep"
    LEASE_RENEWAL = "lease_renewal"
    LEDGER_DELETION = "ledger_deletion"
    USAGE = "usage"
    ALERTS = "alerts"
    LEDGER_PARTITIONS = "ledger_partitions"
    CONFIGURATION = "configuration"
    IDENTITY_CLEANUP = "identity_cleanup"
    CONVERSATION_RETENTION = "conversation_retention"
    CONTENT_RETENTION = "content_retention"
    AUDIT_HEADS = "audit_heads"
    ARCHIVE = "archive"
    JOBS = "jobs"
    WEBHOOKS = "webhooks"
    DOCUMENTS = "documents"
    BATCHES = "batches"


NoteRun = Callable[[Task, bool], None]
"""Receives a task after each of its runs, and whether it succeeded."""


def ignore_run(_task: Task, _succeeded: bool) -> None:
    """A NoteRun for tasks that nothing watches."""


@contextmanager
def noted(on_run: NoteRun, task: Task) -> Iterator[None]:
    """Note the block as a run of the task: it fails with an exception. A cancelled run is not noted."""
    try:
        yield
    except Exception:
        on_run(task, False)
        raise
    on_run(task, True)


class TaskRuns:
    """Notes the runs of this process."""

    def __init__(self) -> None:
        self.succeeded: Counter[Task] = Counter()
        self.failed: Counter[Task] = Counter()
        self.succeeded_at = dict.fromkeys(Task, time.time())
        """When each task last succeeded, in seconds since the epoch; the start of the server counts as a success."""

    def note(self, task: Task, succeeded: bool) -> None:
        """Note a run that has ended."""
        if succeeded:
            self.succeeded[task] += 1
            self.succeeded_at[task] = time.time()
        else:
            self.failed[task] += 1

    def leave_out(self, task: Task) -> None:
        """This process does not run the task: it must not look late."""
        del self.succeeded_at[task]
