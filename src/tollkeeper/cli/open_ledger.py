"""The ledger of a command that changes quotas or charges."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Run a ledger in this process, beside the ledgers of running servers. Raises LedgerUnavailable."""
    _silence_logs()
    ledger = make_ledger(settings)
    ledger.start()
    try:
        yield ledger
    except LedgerUnavailable:
        raise LedgerUnavailable(
            "The ledger did not respond in time. Check whether the change was made before you retry."
        ) from None
    finally:
        await ledger.stop()


def _silence_logs() -> None:
    """Log only critical errors: the ledger's log lines would mix with the command's output."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
