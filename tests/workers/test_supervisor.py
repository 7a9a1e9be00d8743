"""The supervisor of worker processes: it starts them, replaces those that end, and ends with them."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.processes import Program, clean_environment
from support.deadlines import TEST_DEADLINE_S

Start = Callable[[str], Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def run(way: str) -> Program:
        output = tmp_path / "out"
        program = Program(
            ("workers.supervised", way), environment=clean_environment({}), folder=tmp_path, output=output
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        if program.running:
            program.kill()


def wait_for(program: Program, pattern: str, times: int = 1) -> list[str]:
    """Returns the matches of a pattern in the output, once there are so many."""
    deadline = time.monotonic() + TEST_DEADLINE_S
    while len(found := re.findall(pattern, program.output, re.MULTILINE)) < times:
        assert time.monotonic() < deadline, program.output
        time.sleep(0.01)
    return found


def test_a_killed_worker_is_replaced_at_once_and_sigterm_ends_all(start: Start) -> None:
    program = start("serves")
    wait_for(program, r"^ready \d \d+ 0 False True$", 2)
    (killed,) = wait_for(program, r"^ready 2 (\d+)")
    os.kill(int(killed), signal.SIGKILL)
    wait_for(program, r"^ready 2 \d+ 1 False True$")
    wait_for(program, rf"^noted {killed}$")
    assert '"exit":-9' in program.output
    assert program.terminate() == 0
    assert sorted(wait_for(program, r"^ended (\d) 15$", 2)) == ["1", "2"]


def test_a_worker_that_fails_again_and_again_waits_longer_and_longer(start: Start) -> None:
    program = start("second_fails")
    wait_for(program, r'"seconds":0.2', 1)
    assert re.findall(r'"seconds":([\d.]+)', program.output)[:3] == ["0.05", "0.1", "0.2"]
    assert len(re.findall(r"^ready 1 ", program.output, re.MULTILINE)) == 1
    assert program.terminate() == 0


def test_a_worker_that_reports_nothing_any_more_is_killed_and_replaced(start: Start) -> None:
    program = start("second_hangs")
    wait_for(program, r"^ready 2 ", 2)
    assert set(re.findall(r'"worker":(\d),.*"worker.hung"', program.output)) == {"2"}
    assert len(re.findall(r"^ready 1 ", program.output, re.MULTILINE)) == 1
    assert program.terminate() == 0


def test_a_supervisor_that_was_frozen_with_its_workers_does_not_blame_them(start: Start) -> None:
    """The workers report nothing meanwhile, either."""
    program = start("is_frozen")
    wait_for(program, r"^ready ", 2)
    wait_for(program, r"^polled$")
    os.kill(program.pid, signal.SIGUSR1)
    wait_for(program, r"^jumped$")
    wait_for(program, r"^polled$", 2)
    assert program.terminate() == 0
    assert "worker.hung" not in program.output


@pytest.mark.parametrize(("way", "code"), [("never_ready", 3), ("second_is_final", 2)])
def test_a_failure_that_a_new_start_does_not_heal_ends_the_server_with_its_code(
    start: Start, way: str, code: int
) -> None:
    program = start(way)
    assert program.wait_for_end() == code
    assert '"worker.failed"' in program.output


def test_sighup_reaches_the_workers_and_later_ones_know_of_it(start: Start) -> None:
    program = start("serves")
    (first,) = wait_for(program, r"^ready 1 (\d+)")
    wait_for(program, r"^ready 2 ")
    os.kill(program.pid, signal.SIGHUP)
    os.kill(int(first), signal.SIGKILL)
    wait_for(program, r"^ready 1 \d+ 1 True")
    assert program.terminate() == 0
    assert wait_for(program, r"^ended 2 (\S+)$") == ["1,15"]


def test_the_first_interrupt_is_a_demand_to_drain_and_the_second_to_stop_at_once(start: Start) -> None:
    program = start("waits_for_interrupt")
    wait_for(program, r"^ready ", 2)
    os.kill(program.pid, signal.SIGINT)
    wait_for(program, r"^drains ", 2)
    assert program.interrupt() == 0
    assert wait_for(program, r"^ended \d (\S+)$", 2) == ["15,2", "15,2"]


def test_the_exit_code_is_that_of_a_worker_that_failed_to_end_well(start: Start) -> None:
    program = start("ends_with_5")
    wait_for(program, r"^ready ", 2)
    assert program.terminate() == 5


def test_workers_end_with_their_supervisor(start: Start) -> None:
    program = start("serves")
    workers = wait_for(program, r"^ready \d (\d+)", 2)
    program.kill()
    assert sorted(wait_for(program, r"^alone (\d+)$", 2)) == sorted(workers)
