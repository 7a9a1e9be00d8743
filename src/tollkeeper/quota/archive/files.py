"""The files of an archive: one per table, and a manifest that says what they have.

They are written to a folder with `.part` at the end of its name. It is renamed when all is on the disk.
"""

import csv
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import FILE_MODE, create_private_file, create_private_folder, synchronize

MANIFEST = "manifest.json"
_READ_BYTES = 1 << 20


class FileFacts(NamedTuple):
    """What the manifest says of a file."""

    name: str
    rows: int
    bytes: int
    sha256: str
    columns: Sequence[str]


class TableFile(Protocol):
    """A file with rows of one table."""

    def write(self, rows: Sequence[Sequence[Any]]) -> list[str]:
        """Add rows. Returns each as a line of CSV, without its end."""
        ...

    def close(self) -> FileFacts:
        """Complete the file, and have the disk store it. Raises OSError."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class _Lines:
    """Receives the lines of a csv.writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


def csv_lines(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Rows as lines of CSV, without their ends. A value that is absent is empty, and a truth is 1 or 0."""
    collected = _Lines()
    csv.writer(collected, lineterminator="").writerows(
        [int(value) if isinstance(value, bool) else value for value in row] for row in rows
    )
    return collected.lines


class CsvFile:
    """A gzipped CSV file with a line of column names."""

    def __init__(self, folder: Path, table: str, columns: Sequence[str]) -> None:
        """Raises OSError."""
        self._path = folder / f"{table}.csv.gz"
        self._columns = columns
        self._rows = 0
        self._raw = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE), "wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)
        self._gzip.write((",".join(columns) + "\n").encode())

    def write(self, rows: Sequence[Sequence[Any]]) -> list[str]:
        lines = csv_lines(rows)
        self._gzip.write("".join(f"{line}\n" for line in lines).encode())
        self._rows += len(rows)
        return lines

    def close(self) -> FileFacts:
        self._gzip.close()
        self._raw.close()
        synchronize(self._path)
        return facts_of(self._path, self._rows, self._columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._raw.close()


def facts_of(path: Path, rows: int, columns: Sequence[str]) -> FileFacts:
    """What the manifest says of a file that is complete. Raises OSError."""
    return FileFacts(path.name, rows, path.stat().st_size, hash_of(path), list(columns))


def hash_of(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while some := file.read(_READ_BYTES):
            digest.update(some)
    return digest.hexdigest()


class ExportFolder:
    """The folder of one archive. `ledger` identifies the ledger."""

    def __init__(self, parent: Path, name: str, ledger: str) -> None:
        self.path = parent / name
        self.part = parent / f"{name}.part"
        self._ledger = ledger

    def begin(self) -> None:
        """Create the folder for the parts, without what an interrupted export has left. Raises ConfigurationError."""
        if self.path.exists() and self._manifest().get("ledger") != self._ledger:
            raise ConfigurationError(f"{self.path} exists, and is no archive of this ledger. Choose another folder.")
        try:
            shutil.rmtree(self.part, ignore_errors=True)
            create_private_folder(self.part)
        except OSError as error:
            raise not_written(self.part, error) from None

    def complete(self, files: Sequence[FileFacts], facts: dict[str, Any]) -> str:
        """Write the manifest, and rename the folder when all is on the disk. Returns the manifest's hash.

        Raises ConfigurationError. A folder of this name is an export of the same rows, which was not registered.
        """
        manifest = {"ledger": self._ledger, **facts, "files": [each._asdict() for each in files]}
        try:
            create_private_file(self.part / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            synchronize(self.part / MANIFEST)
            synchronize(self.part)
            if self.path.exists():
                shutil.rmtree(self.path)
            self.part.rename(self.path)
            synchronize(self.path.parent)
            return hash_of(self.path / MANIFEST)
        except OSError as error:
            raise not_written(self.part, error) from None

    def require_complete(self, manifest_hash: str | None) -> None:
        """Raise ConfigurationError unless every file of the export is here, with its bytes."""
        try:
            is_complete = hash_of(self.path / MANIFEST) == manifest_hash and all(
                hash_of(self.path / each["name"]) == each["sha256"] for each in self._manifest()["files"]
            )
        except OSError:
            is_complete = False
        if not is_complete:
            raise ConfigurationError(
                f"The export {self.path} is not complete, so its rows are not removed."
                " If it is elsewhere, name that folder: --to"
            )

    def _manifest(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.path / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}
        return found


def not_written(path: Path, error: OSError) -> ConfigurationError:
    """The error for a file or folder on a disk that is full, read-only or gone."""
    return ConfigurationError(f"{path} cannot be written: {error.strerror or error}.")
