"""The SQLite file is deleted or replaced under the server: nothing is served unbooked, and the server exits."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from journeys.support.server import Server
from journeys.support.users import new_user
from support.deadlines import TEST_DEADLINE_S


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.replace(path)


LOSSES: dict[str, Callable[[Path], None]] = {"deleted": _delete, "replaced": _replace}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(
    "calls", [pytest.param(0, id="idle", marks=pytest.mark.exhaustive), pytest.param(3, id="called")]
)
async def test_a_server_whose_database_file_is_lost_refuses_calls_and_exits_with_an_error(
    make_server: Callable[..., Server], sqlite_url: str, loss: Callable[[Path], None], calls: int
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_SWEEP_SECONDS="1").start()
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    async with new_user(server) as caller:
        assert (await caller.query(caller.marker)).status == 200
        loss(path)
        for _ in range(calls):
            assert (await caller.query(caller.marker)).status == 503
    assert server.program.wait_for_end(TEST_DEADLINE_S) == 2
    assert str(path) in server.program.output
    assert "Restore it, and restart." in server.program.output
