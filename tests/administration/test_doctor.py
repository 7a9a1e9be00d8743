"""The checks of an operator's request: one run for all who wait, whose findings are kept for some seconds."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.factories import FakeClock
from tollkeeper.administration.doctor import LIFETIME_MS, CheckState, Doctor, Finding

OK, WARNING = Finding("a", CheckState.OK, "fine"), Finding("b", CheckState.WARNING, "slow", "Wait.")


class Checks:
    """Checks that wait for `go`, and are counted."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()

    async def run(self) -> AsyncIterator[Finding]:
        self.runs += 1
        yield OK
        await self.go.wait()
        yield WARNING


async def test_all_who_wait_share_a_run_and_its_findings_are_kept_for_a_time() -> None:
    clock, checks = FakeClock(), Checks()
    doctor = Doctor(checks.run, clock)
    waiting = [asyncio.create_task(doctor.examine()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one that goes away takes nothing from the others
    checks.go.set()
    first, second = await asyncio.gather(*waiting[1:])
    assert (first, first.state, checks.runs) == (second, CheckState.WARNING, 1)
    assert await doctor.examine() is first
    clock.step(LIFETIME_MS / 1000)
    assert (await doctor.examine() is not first, checks.runs) == (True, 2)


async def test_a_run_ends_with_the_server() -> None:
    checks = Checks()
    doctor = Doctor(checks.run, FakeClock())
    waiting = asyncio.create_task(doctor.examine())
    await asyncio.sleep(0)
    await doctor.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
