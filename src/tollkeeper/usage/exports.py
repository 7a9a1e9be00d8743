"""Reads what providers say was used: OpenAI's and Anthropic's usage APIs as JSON, and CSV files with a map of columns.

OpenAI: `GET /v1/organization/usage/completions` and `/embeddings` with `group_by=model` ("Usage" in its API reference);
`input_tokens` has cached ones, too. Anthropic: `GET /v1/organizations/usage_report/messages` with `group_by[]=model`
("Usage and Cost API"); its input is the sum of uncached, read and written tokens.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from tollkeeper.errors import InvalidRequest

MAX_FILE_BYTES = 64 * 1024 * 1024
COLUMNS = ("start", "end", "model", "input", "output", "cached", "requests")
NEEDED_COLUMNS = ("start", "model", "input", "output")


class ExportFormat(StrEnum):
    """Whose export a file is, or CSV."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    CSV = "csv"


class ExportLine(NamedTuple):
    """What a provider says was used of a model in a time, in milliseconds since the epoch. `requests` and `cached` are
    None where the export does not say.
    """

    start_ms: int
    end_ms: int
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    requests: int | None = None


def read_export(
    path: Path, export_format: ExportFormat, columns: Mapping[str, str], width: timedelta
) -> list[ExportLine]:
    """The lines of a file. `columns` are the names in a CSV file of those in COLUMNS; `width` is the length of
    its lines without an end. Raises InvalidRequest, which says what is wrong with the file.
    """
    text = _read_text(path)
    try:
        if export_format is ExportFormat.CSV:
            return list(_read_csv(text, columns, width))
        return list(_read_json(text, _READERS[export_format]))
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidRequest(f"{path} is no export of the format {export_format}: {reason}.") from None


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidRequest(f"{path} cannot be read: {reason}.") from None


def _read_json(text: str, read: Callable[[Any, Any], ExportLine]) -> Iterator[ExportLine]:
    """A page of the API, or a list of pages."""
    document = json.loads(text)
    for page in document if isinstance(document, list) else [document]:
        if page.get("has_more") and not isinstance(document, list):
            raise ValueError("it is one of several pages: put all of them into one list")
        for bucket in page["data"]:
            for result in bucket["results"]:
                if result["model"] is None:
                    raise ValueError("its results are not grouped by model")
                yield read(bucket, result)


def _openai(bucket: Any, result: Any) -> ExportLine:
    return ExportLine(
        _count(bucket["start_time"]) * 1000,
        _count(bucket["end_time"]) * 1000,
        str(result["model"]),
        _count(result["input_tokens"]),
        _count(result.get("output_tokens", 0)),
        _count(result["input_cached_tokens"]) if result.get("input_cached_tokens") is not None else None,
        _count(result["num_model_requests"]),
    )


def _anthropic(bucket: Any, result: Any) -> ExportLine:
    written = sum(map(_count, result["cache_creation"].values()))
    cached = _count(result["cache_read_input_tokens"])
    return ExportLine(
        _moment_ms(bucket["starting_at"]),
        _moment_ms(bucket["ending_at"]),
        str(result["model"]),
        _count(result["uncached_input_tokens"]) + written + cached,
        _count(result["output_tokens"]),
        cached,
    )


_READERS = {ExportFormat.OPENAI: _openai, ExportFormat.ANTHROPIC: _anthropic}


def _read_csv(text: str, columns: Mapping[str, str], width: timedelta) -> Iterator[ExportLine]:
    rows: Iterable[dict[str, str]] = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for row in rows:
        start_ms = _moment_ms(row[columns["start"]])
        end_ms = _moment_ms(row[columns["end"]]) if "end" in columns else start_ms + int(width.total_seconds() * 1000)
        cached, requests = (_count(row[columns[name]]) if name in columns else None for name in ("cached", "requests"))
        amounts = _count(row[columns["input"]]), _count(row[columns["output"]])
        yield ExportLine(start_ms, end_ms, row[columns["model"]].strip(), *amounts, cached, requests)


def _count(value: Any) -> int:
    """A number of tokens or requests. Raises ValueError."""
    if isinstance(value, str):
        value = int(value.strip().replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        raise ValueError(f"{value!r} is no number of tokens or requests")
    return value


def _moment_ms(text: str) -> int:
    """A time, as ISO 8601, or in seconds since the epoch; without a zone, it is one of UTC. Raises ValueError."""
    text = text.strip()
    if text.isdecimal():
        return int(text) * 1000
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)
