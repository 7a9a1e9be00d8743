"""`make soak`: a server under a mix of calls for minutes, on each database. Exit code 0: memory flat, books clean."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from journeys.support.admins import new_admin
from journeys.support.many_users import many_users
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import write_catalog
from journeys.support.server import Server
from journeys.upstream.handle import Upstream
from soak.load import Mix
from soak.samples import COLUMNS, Sample, Sampler, growth_problems
from soak.serve import COUNTS_FILE
from support.databases import new_postgres
from support.postgres_servers import share_wheel, stop_all
from tollkeeper.database.migrations import migrate
from tollkeeper.principal import Role

SERVE = ("soak.serve", "serve")
WARM_UP_S = 5.0
SAMPLES_AT_LEAST = 12


def main() -> int:
    options = _options()
    databases = ("sqlite", "postgres") if options.database == "both" else (options.database,)
    seconds = 60 * options.minutes / len(databases)
    problems = []
    for kind in databases:
        with tempfile.TemporaryDirectory(prefix="tk-soak-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL does not run as root
            print(f"{kind}, {seconds:.0f} s, {options.callers} callers\n{COLUMNS}")
            with _database(kind, folder) as url:
                found = asyncio.run(_soak(url, folder, seconds, options.callers, options.pause))
        problems += [f"{kind}: {problem}" for problem in found]
    for problem in problems:
        print(f"WRONG  {problem}")
    if not problems:
        print("Memory, descriptors and tasks are flat, every answer was as expected, and the books are clean.")
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all databases together; default 10")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--callers", type=int, default=12, help="loops that call at the same time; default 12")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two calls of a loop; default 0.1")
    return parser.parse_args()


async def _soak(database_url: str, folder: Path, seconds: float, callers: int, pause_s: float) -> list[str]:
    """Returns what went wrong."""
    async with _server(database_url, folder) as (server, counts_file):
        sampler = Sampler(server.program.pid, counts_file, database_url)
        async with many_users(server, callers) as users, new_admin(server, Role.OPERATOR) as admin:
            mix = Mix(users, admin, pause_s)
            idle_before, samples = await _load(mix, sampler, seconds)
        while await sampler.open_charges():
            await asyncio.sleep(0.5)
        idle_after = await _sample(sampler, mix, seconds)
        await sampler.close()
        problems = [f"{action}: {example}" for action, example in mix.unexpected.items()]
        problems += growth_problems(samples, idle_before, idle_after)
        verified = await asyncio.to_thread(server.command, "ledger", "verify", codes=(0, 1))
        if "open holds: 0\n" not in verified or "\nClean:" not in verified:
            problems.append(f"the ledger is not clean: {verified[:500]}")
        print(", ".join(f"{name} {count:,}" for name, count in sorted(mix.done.items())))
        await asyncio.to_thread(server.stop)
        return problems


async def _load(mix: Mix, sampler: Sampler, seconds: float) -> tuple[Sample, list[Sample]]:
    """Run the mix. Returns a sample of the idle server that has served a little, and those of the time after."""
    began = time.monotonic()
    warming = asyncio.create_task(mix.run())
    await asyncio.sleep(WARM_UP_S)
    mix.stop()
    await warming
    idle = await _sample(sampler, mix, time.monotonic() - began)
    running, samples = asyncio.create_task(mix.run()), []
    interval = min(30.0, seconds / SAMPLES_AT_LEAST)
    while time.monotonic() - began < seconds and not running.done():
        await asyncio.sleep(interval)
        samples.append(await _sample(sampler, mix, time.monotonic() - began))
    mix.stop()
    await running
    return idle, samples


async def _sample(sampler: Sampler, mix: Mix, seconds: float) -> Sample:
    sample = await sampler.sample(seconds, sum(mix.done.values()))
    print(sample, flush=True)
    return sample


@asynccontextmanager
async def _server(database_url: str, folder: Path) -> AsyncIterator[tuple[Server, Path]]:
    """A server with a provider on each wire, and the file that it writes its counts to."""
    unused_port, upstream, counts_file = ReservedPort(), Upstream(folder), folder / "counts.json"
    settings = write_catalog(folder, upstream, unused_port) | {
        "TOLLKEEPER_ACCESS_TOKEN_MINUTES": "1440",
        "TOLLKEEPER_EVENTS_LOG": "False",
        "TOLLKEEPER_EVENTS_FILE": str(folder / "events.jsonl"),
        "TOLLKEEPER_LOG_LEVEL": "warning",
        COUNTS_FILE: str(counts_file),
    }
    server = Server(database_url, folder, settings)
    try:
        yield await asyncio.to_thread(server.start, SERVE), counts_file
    finally:
        server.free()
        upstream.stop()
        unused_port.free()


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a migrated, empty database."""
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'tollkeeper.db'}"
        migrate(url)
        yield url
        return
    try:
        yield new_postgres(share_wheel(folder / "postgres"))
    finally:
        stop_all(folder)


if __name__ == "__main__":
    sys.exit(main())
