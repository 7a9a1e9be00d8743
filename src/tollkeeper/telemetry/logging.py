"""Logs: one JSON object a line, on standard output. Only what is named here is ever written: no bodies, no headers."""

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
"""The id of the request that this task works for."""

FLUSH_S = 0.01

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str) -> None:
    """Set up logging for this process, the libraries' included."""
    structlog.configure(
        processors=[
            _add_correlation_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Printer(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s", force=True
    )


class AccessLog:
    """One line a request, made by hand, for it is on the way of every call; those of a moment together."""

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
            "timestamp": datetime.now(UTC),
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        self._lines.append(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        _print(b"".join(lines).decode())


class _Printer:
    def msg(self, message: str) -> None:
        _print(message + "\n")

    log = debug = info = warn = warning = error = err = critical = exception = fatal = failure = msg


def _print(text: str) -> None:
    """A log that cannot be written (a full disk, a closed pipe) must not stop what it reports of."""
    with suppress(OSError, ValueError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _add_correlation_id(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if current := correlation_id.get():
        event["correlation_id"] = current
    return event
