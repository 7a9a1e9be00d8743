"""Runs background jobs for `tollkeeper worker`, in this process."""

import asyncio
import signal
from collections.abc import Mapping

from tollkeeper.bootstrap.application import running_worker
from tollkeeper.bootstrap.backends import Backends, make_backends
from tollkeeper.cli.command_settings import load_command_settings, require_sqlite_file
from tollkeeper.cli.output import print_line
from tollkeeper.cli.serving import raise_for_losses
from tollkeeper.server.limits import Connections, EdgeLimits
from tollkeeper.settings import Settings
from tollkeeper.telemetry.logging import log_uncaught_exceptions


def start(options: Mapping[str, object]) -> None:
    """Run jobs until SIGINT or SIGTERM. `options` are settings that take precedence over the environment.

    Raises ConfigurationError.
    """
    settings = load_command_settings(**options, jobs="on", webhooks="on")
    require_sqlite_file(settings)
    backends = make_backends(settings)
    asyncio.run(_work(settings, backends))
    raise_for_losses(backends)


async def _work(settings: Settings, backends: Backends) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    connections = Connections(EdgeLimits())
    async with running_worker(settings, backends, connections):
        log_uncaught_exceptions()
        print_line(f"Tollkeeper runs background jobs, {settings.jobs_concurrency} at a time.")
        await stopped.wait()
        connections.is_draining = True
