"""The runs of background tasks are noted, those that fail too."""

import asyncio

import pytest
from freezegun import freeze_time

from tollkeeper.telemetry.task_runs import Task, TaskRuns, noted


def test_a_run_succeeds_or_fails_and_the_last_success_is_known() -> None:
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        runs = TaskRuns()
        started_at = runs.succeeded_at[Task.SWEEP]
        frozen.tick(10)
        with noted(runs.note, Task.SWEEP):
            pass
        frozen.tick(10)
        with pytest.raises(OSError), noted(runs.note, Task.SWEEP):
            raise OSError
    assert (runs.succeeded, runs.failed) == ({Task.SWEEP: 1}, {Task.SWEEP: 1})
    assert runs.succeeded_at[Task.SWEEP] == started_at + 10
    assert runs.succeeded_at[Task.AUDIT_HEADS] == started_at


def test_a_run_that_is_cancelled_at_the_stop_of_the_server_is_none() -> None:
    runs = TaskRuns()
    with pytest.raises(asyncio.CancelledError), noted(runs.note, Task.SWEEP):
        raise asyncio.CancelledError
    assert (runs.succeeded, runs.failed) == ({}, {})


def test_a_task_that_this_process_does_not_run_has_no_time_of_its_last_success() -> None:
    runs = TaskRuns()
    runs.leave_out(Task.JOBS)
    assert set(runs.succeeded_at) == set(Task) - {Task.JOBS}
