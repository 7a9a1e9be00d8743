"""SIGHUP: the server reads the operator's catalog and the log level again, while its calls go on."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from tollkeeper.bootstrap.catalog import CatalogSource
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.catalog import Catalog
from tollkeeper.settings import Settings, load_settings, variable_of
from tollkeeper.terminal import Terminal

RELOADED = ("catalog", "log_level")
"""The settings that a reload takes."""
GIVEN_TO_COMMANDS = ("host", "port", "workers")
"""Settings that options of `serve` can replace, so that the environment does not have them."""

log = structlog.get_logger("tollkeeper.configuration")


class EarlyHangUp:
    """The handler of SIGHUP before the server can reload: it only notes the signal."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, *_: object) -> None:
        self.received = True


class Reload:
    """Reads the catalog and the log level again at each SIGHUP. A mistake in them is logged, and changes nothing.

    `on_reload` is called after each attempt without one. `problem` is the mistake of the last attempt, with its time in
    milliseconds since 1970; None after a good one.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        source: CatalogSource,
        set_log_level: Callable[[str], None],
        load: Callable[[], Settings] = load_settings,
        on_reload: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._source = source
        self._set_log_level = set_log_level
        self._load = load
        self._on_reload = on_reload
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._early: EarlyHangUp | None = None
        self._terminal = Terminal()
        self.problem: tuple[str, int] | None = None

    def start(self) -> None:
        """Handle SIGHUP from now on, if this is the main thread, and one that was received before."""
        self._task = asyncio.create_task(self._run(), name="reload")
        if threading.current_thread() is not threading.main_thread():
            return
        early = signal.getsignal(signal.SIGHUP)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hang_up)
        if isinstance(early, EarlyHangUp):
            self._early = early
            if early.received:
                self._requested.set()

    async def stop(self) -> None:
        """End the task. A further SIGHUP has no effect."""
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, self._early or signal.SIG_DFL)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _on_hang_up(self) -> None:
        if self._terminal.is_gone:
            signal.raise_signal(signal.SIGTERM)
        else:
            self._requested.set()

    async def _run(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self.reload()
            except Exception:
                self.problem = "An unexpected error: the log has it.", time.time_ns() // 1_000_000
                log.exception("configuration.not_reloaded")

    async def reload(self) -> None:
        """Read and apply. The file is read in a thread: it may be long, and its models have published prices."""
        try:
            fresh = self._load()
            settings = self._settings.model_copy(update={name: getattr(fresh, name) for name in RELOADED})
            catalog = await asyncio.to_thread(self._source.make, settings)
        except ConfigurationError as error:
            self.problem = error.detail, time.time_ns() // 1_000_000
            log.error("configuration.not_reloaded", reason=error.detail)
            return
        self._set_log_level(settings.log_level)
        await self._catalog.adopt(catalog)
        self._on_reload()
        self._settings, self.problem = settings, None
        models = len(self._catalog.all_models())
        log.info("configuration.reloaded", models=models, log_level=settings.log_level)
        if ignored := self._changed_otherwise(fresh):
            log.warning("configuration.needs_restart", settings=ignored)

    def _changed_otherwise(self, fresh: Settings) -> list[str]:
        """The names of the settings that have changed, and that only a restart takes."""
        names = Settings.model_fields.keys() - {*RELOADED, *GIVEN_TO_COMMANDS}
        return sorted(variable_of(name) for name in names if getattr(fresh, name) != getattr(self._settings, name))
