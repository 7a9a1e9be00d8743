"""Only the server's user can read the database of a running server, and its log and index."""

import stat
from collections.abc import Callable
from pathlib import Path

from journeys.support.server import Server
from journeys.support.users import new_user

SERVE = ("journeys.support.serve_with_usual_umask", "serve")


async def test_the_files_of_a_running_server_are_for_its_user(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    """Also those of a database that other users could read before."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.chmod(0o644)
    server = make_server(sqlite_url).start(SERVE)
    async with new_user(server) as caller:
        await caller.query("Good morning")
        names = ("", "-wal", "-shm")
        modes = {name: stat.S_IMODE(path.with_name(path.name + name).stat().st_mode) for name in names}
    assert modes == dict.fromkeys(names, 0o600)
    server.stop()
