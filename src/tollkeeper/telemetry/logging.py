"""Logs on standard output: one JSON object a line, or readable text at a terminal. Bodies and headers are never logged.

The lines of libraries, warnings and uncaught exceptions are written in the same way.
"""

import asyncio
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo

from tollkeeper.printable import escape_unprintable
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.log_fields import FIELDS, LEFT_OUT
from tollkeeper.telemetry.log_writer import Write, write_at_once
from tollkeeper.telemetry.redaction import format_exception, redact

HTTP_REQUEST = "http.request"
FLUSH_INTERVAL_S = 0.01
"""How long the access log collects lines before it writes them."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COROUTINE = re.compile(r"coro=(<[\w.<>]+)\(\)")

log = structlog.get_logger("tollkeeper.process")


def configure_logging(
    level: str, *, as_text: bool = False, worker: int | None = None, write: Write = write_at_once
) -> None:
    """Set up the logging of this process and of its libraries. `level` is `debug`, `info`, `warning` or `error`.

    Of several processes with one log, each has a number, which stands in its lines. `write` receives each line.
    """
    structlog.configure(
        processors=[
            *(() if worker is None else (partial(_add_worker, worker),)),
            _add_correlation_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_format_exc_info),
            _keep_known_fields,
            _redact_texts,
            _render_text if as_text else structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _LineLogger(write),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_StructlogHandler()], force=True)
    logging.captureWarnings(capture=True)


def log_uncaught_exceptions() -> None:
    """Log what no code of ours or of a library catches: in the main thread, in other threads, and in finalizers."""
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda lost: log.error("process.unraisable", message=lost.err_msg, exc_info=lost.exc_value)
    threading.excepthook = lambda failed: log.error(
        "process.thread_failed", thread=failed.thread.name if failed.thread else None, exc_info=failed.exc_value
    )


def _log_uncaught(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    log.error("process.failed", exc_info=error)


class AccessLog:
    """Writes one line for each request, and one for each call.

    Every call passes here, so lines bypass structlog, and those of FLUSH_INTERVAL_S are written together.
    """

    def __init__(
        self, level: str, *, as_text: bool = False, worker: int | None = None, write: Write = write_at_once
    ) -> None:
        self._as_text = as_text
        self._write = write
        self._worker = {} if worker is None else {"worker": worker}
        self._worker_json = "" if worker is None else f'"worker":{worker},'
        self._lines: list[bytes] = []
        self._second, self._second_text = -1, ""
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write lines if the level is INFO or below, from now on."""
        self.enabled = _LEVELS[level] <= logging.INFO

    def write(self, *, method: str, path: str, status: int, seconds: float, correlation_id: str) -> None:
        line = {
            "method": method,
            "path": path,
            "status": status,
            "seconds": round(seconds, 6),
            "correlation_id": correlation_id,
        }
        if self._as_text:
            self.write_line({"event": HTTP_REQUEST} | line)
        else:
            self.write_json((HTTP_REQUEST, orjson.dumps(line)))

    def write_line(self, line: dict[str, Any]) -> None:
        """Write an event with its fields. `seconds` is among them."""
        line |= {
            "level": "info",
            "timestamp": datetime.now(UTC),
            **self._worker,
        }  # the system's clock, as in structlog's lines
        if self._as_text:
            text = format_line(line | {"seconds": f"{line['seconds']:.3f}"})
            self._write(f"{text}\n".encode(errors="backslashreplace"))
            return
        self._add(orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))

    def write_json(self, *events: tuple[str, bytes]) -> None:
        """Write events whose fields are a JSON object already, with no timestamp among them."""
        tail = f'",{self._worker_json}"level":"info","timestamp":"{self._timestamp()}",'.encode()
        for event, fields in events:
            self._add(b'{"event":"%b%b%b\n' % (event.encode(), tail, fields[1:]))

    def _timestamp(self) -> str:
        """The time in UTC, with microseconds. To format all of it takes three times as long."""
        second, microseconds = divmod(time.time_ns() // 1_000, 1_000_000)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{microseconds:06}Z"

    def _add(self, line: bytes) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._write(b"".join(lines))


class _StructlogHandler(logging.Handler):
    """Passes the records of the standard library's loggers on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit the message
            message = str(record.msg)
        if record.name == "asyncio":
            message = _shorten_asyncio_message(message)
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library.logged", logger=record.name, message=message, exc_info=record.exc_info)


class _LineLogger:
    """The logger that structlog writes its lines to."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def msg(self, message: str) -> None:
        self._write(f"{message}\n".encode(errors="backslashreplace"))

    log = debug = info = warn = warning = error = err = critical = exception = fatal = failure = msg


def format_line(event: Mapping[str, Any]) -> str:
    """Returns an event as text: its local time, level and name, its other fields, and below it the traceback.

    A client chooses the path of a request: what is not printable is escaped.
    """
    rest = dict(event)
    time, level, name = (rest.pop(field, "") for field in ("timestamp", "level", "event"))
    traceback = str(rest.pop("exception", ""))
    at = time if isinstance(time, datetime) else datetime.fromisoformat(str(time))
    words = [f"{at.astimezone():%H:%M:%S}", f"{level:<7}", str(name)]
    words += [f"{field}={value}" for field, value in rest.items() if value not in (None, "")]
    return "\n".join(map(escape_unprintable, [" ".join(words), *traceback.splitlines()]))


def _render_text(_logger: Any, _method: str, event: EventDict) -> str:
    return format_line(event)


def _dumps(event: dict[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(event, default=str)


def _shorten_asyncio_message(message: str) -> str:
    """Returns the sentence and the coroutine. The rest shows arguments and results, which can contain anything."""
    sentence, coroutine = message.split("\n")[0].partition("(")[0], _COROUTINE.search(message)
    return f"{sentence} {coroutine[1]}>" if coroutine is not None else sentence


def _format_exc_info(exc_info: ExcInfo) -> str:
    return format_exception(exc_info[1])


def _keep_known_fields(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if event.keys() <= FIELDS:
        return event
    kept = {name: value for name, value in event.items() if name in FIELDS}
    return kept | {LEFT_OUT: sorted(event.keys() - FIELDS)}


def _redact_texts(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {name: redact(value) if isinstance(value, str) else value for name, value in event.items()}


def _add_worker(worker: int, _logger: Any, _method: str, event: EventDict) -> EventDict:
    event["worker"] = worker
    return event


def _add_correlation_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if current := correlation_id.get():
        event["correlation_id"] = current
    return event
