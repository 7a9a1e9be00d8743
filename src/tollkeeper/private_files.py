"""Files that only their owner can read: the database, and files with secrets."""

import os
import stat
from contextlib import suppress
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_RIGHTS_OF_OTHERS = 0o077
_SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")


def create_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, with mode 0700. Folders that exist keep their modes. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    for one in reversed(missing):
        one.mkdir(FOLDER_MODE, exist_ok=True)


def create_private_file(path: Path, content: str) -> None:
    """Create a file with mode 0600. Raises FileExistsError, OSError."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)


def synchronize(path: Path) -> None:
    """Have the disk store a file, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_private(path: Path) -> bool:
    """Whether only its owner has rights to a file. Raises OSError."""
    return not path.stat().st_mode & _RIGHTS_OF_OTHERS


def narrow_mode(path: Path) -> None:
    """Set the mode of a file to 0600 if others have rights to it, and this process's user owns it."""
    with suppress(OSError):  # the file is absent, or its file system has no modes
        found = path.stat()
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours and found.st_mode & _RIGHTS_OF_OTHERS:
            path.chmod(FILE_MODE)


def secure_sqlite_files(path: Path) -> None:
    """Create the file of a database, if it is absent, and narrow the modes of the file, its log and its index.

    SQLite creates the log and the index with the mode of the database. A file that cannot be created is left to SQLite,
    which reports why. A file that exists is not opened here: closing it would release the locks of this process.
    """
    if not path.exists():
        with suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, FILE_MODE))
    for suffix in _SQLITE_SUFFIXES:
        narrow_mode(path.with_name(path.name + suffix))
