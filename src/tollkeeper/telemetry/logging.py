"""Logs: one JSON object a line, on standard output. Bodies and headers are never logged."""

import asyncio
import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""The id of the request that the current task serves; empty outside requests."""

FLUSH_INTERVAL_S = 0.01
"""How long the access log collects lines before it writes them."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str) -> None:
    """Set up the logging of this process and of its libraries. `level` is `debug`, `info`, `warning` or `error`."""
    structlog.configure(
        processors=[
            _add_correlation_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _StdoutLogger(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s", force=True
    )


class AccessLog:
    """Writes one line for each request.

    Every call passes here, so lines bypass structlog, and those of FLUSH_INTERVAL_S are written together.
    """

    def __init__(self, level: str) -> None:
        self.enabled = _LEVELS[level] <= logging.INFO
        self._lines: list[bytes] = []

    def write(self, *, method: str, path: str, status: int, seconds: float, correlation_id: str) -> None:
        line = {
            "event": "http.request",
            "method": method,
            "path": path,
            "status": status,
            "seconds": round(seconds, 6),
            "correlation_id": correlation_id,
            "level": "info",
            "timestamp": datetime.now(UTC),  # the system's clock, as in structlog's lines
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush)
        self._lines.append(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        _write(b"".join(lines).decode())


class _StdoutLogger:
    """The logger that structlog writes its lines to."""

    def msg(self, message: str) -> None:
        _write(message + "\n")

    log = debug = info = warn = warning = error = err = critical = exception = fatal = failure = msg


def _write(text: str) -> None:
    """Write to standard output. A failure (a full disk, a closed pipe) is ignored: it must not stop the caller."""
    with suppress(OSError, ValueError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _add_correlation_id(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if current := correlation_id.get():
        event["correlation_id"] = current
    return event
