"""The files of an archive as Parquet: the columns of the CSV files, with their types. Needs the extra `parquet`.

The library reads what it writes from an iterator. So a thread of its own writes, with what a bounded queue has.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema
from arro3.io import write_parquet
from sqlalchemy import Boolean, Integer, Text
from sqlalchemy.types import TypeEngine
from sqlmodel import AutoString, SQLModel

from tollkeeper.private_files import FILE_MODE, synchronize
from tollkeeper.quota.archive.files import FileFacts, csv_lines, facts_of

ROW_GROUP_ROWS = 50_000
"""What a reader decodes at once, and about what is in memory while a file is written."""
QUEUED_BATCHES = 2
COMPRESSION = "zstd(3)"
_TYPES: Mapping[type[TypeEngine[Any]], Callable[[], DataType]] = {
    Integer: DataType.int64,
    Boolean: DataType.bool,
    AutoString: DataType.utf8,
    Text: DataType.utf8,
}


class ParquetFile:
    """A Parquet file with the rows of a table of the ledger."""

    def __init__(self, folder: Path, table: str, columns: Sequence[str]) -> None:
        """Raises OSError."""
        self._path = folder / f"{table}.parquet"
        self._columns = columns
        described = SQLModel.metadata.tables[table].columns
        self._types = [_type_of(described[name].type) for name in columns]
        self._schema = Schema([Field(name, kind) for name, kind in zip(columns, self._types, strict=True)])
        self._rows = 0
        self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE), "wb")
        self._queue: Queue[RecordBatch | None] = Queue(QUEUED_BATCHES)
        self._has_ended = False
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name=f"parquet-{table}", daemon=True)
        self._thread.start()

    def write(self, rows: Sequence[Sequence[Any]]) -> list[str]:
        """Add rows. Returns each as the line of the CSV file, without its end. Raises OSError."""
        self._raise_failure()
        if rows:
            self._queue.put(self._batch(rows))
        self._rows += len(rows)
        return csv_lines(rows)

    def close(self) -> FileFacts:
        self._end()
        self._raise_failure()
        synchronize(self._path)
        return facts_of(self._path, self._rows, self._columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _batch(self, rows: Sequence[Sequence[Any]]) -> RecordBatch:
        arrays = []
        for kind, values in zip(self._types, zip(*rows, strict=True), strict=True):
            if DataType.is_boolean(kind):  # SQLite has numbers
                values = tuple(None if value is None else bool(value) for value in values)
            arrays.append(Array(values, kind))
        return RecordBatch.from_arrays(arrays, schema=self._schema)

    def _end(self) -> None:
        """Have the thread write the rest, and wait for it."""
        if self._thread.is_alive():
            self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise OSError(f"{self._path.name}: {self._failure}")

    def _run(self) -> None:
        try:
            reader = RecordBatchReader.from_batches(self._schema, self._batches())
            write_parquet(reader, self._file, compression=COMPRESSION, max_row_group_size=ROW_GROUP_ROWS)
        except BaseException as error:  # the library's panics, with which some errors of the disk end, are no Exception
            self._failure = error
            for _ in self._batches():
                pass

    def _batches(self) -> Iterator[RecordBatch]:
        while not self._has_ended:
            batch = self._queue.get()
            self._has_ended = batch is None
            if batch is not None:
                yield batch


def _type_of(column: TypeEngine[Any]) -> DataType:
    [found] = [make for kind, make in _TYPES.items() if isinstance(column, kind)]
    return found()
