"""The modes of what is created: the database with its log and its index, files with secrets, and folders."""

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from pydantic import SecretStr

from tollkeeper.database.migrations import migrate
from tollkeeper.installation_secret import SIGNING_SECRET
from tollkeeper.private_files import create_private_file, create_private_folder, narrow_mode, secure_sqlite_files
from tollkeeper.settings import Settings

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-files"


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """New files are readable by all users, unless they are created otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_database_and_its_folders_are_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "new.db"
    tmp_path.chmod(0o755)
    migrate(f"sqlite:///{path}")
    assert [mode(one) for one in (path, path.parent, path.parent.parent, tmp_path)] == [0o600, 0o700, 0o700, 0o755]


def test_migrate_narrows_the_mode_of_a_database_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.touch(0o644)
    migrate(f"sqlite:///{path}")
    assert mode(path) == 0o600


def test_the_log_and_the_index_of_a_database_have_its_mode_and_are_narrowed(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    secure_sqlite_files(path)
    files = [path, *(path.with_name(f"t.db-{suffix}") for suffix in ("wal", "shm"))]
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        assert [mode(one) for one in files] == [0o600] * 3
        for one in files:
            one.chmod(0o664)
        secure_sqlite_files(path)
        assert [mode(one) for one in files] == [0o600] * 3
        connection.execute("INSERT INTO t VALUES (1)")


def test_a_database_that_cannot_be_created_is_left_to_sqlite_to_report(tmp_path: Path) -> None:
    secure_sqlite_files(tmp_path / "absent" / "t.db")
    secure_sqlite_files(tmp_path)
    assert sorted(tmp_path.iterdir()) == []


def test_a_file_of_another_user_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(0o644)
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1)
    narrow_mode(path)
    assert mode(path) == 0o644


def test_a_private_file_is_never_written_over(tmp_path: Path) -> None:
    create_private_file(tmp_path / "file", "first")
    with pytest.raises(FileExistsError):
        create_private_file(tmp_path / "file", "second")
    assert ((tmp_path / "file").read_text(), mode(tmp_path / "file")) == ("first", 0o600)


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(0o755)
    create_private_folder(tmp_path / "folder")
    assert mode(tmp_path / "folder") == 0o755


def test_the_file_of_the_signing_secret_is_narrowed(tmp_path: Path) -> None:
    path = tmp_path / SIGNING_SECRET.file_name
    path.write_text(SECRET)
    path.chmod(0o644)
    settings = Settings(database_url=f"sqlite:///{tmp_path / 't.db'}", host="127.0.0.1", signing_secret=None)
    assert SIGNING_SECRET.load(settings, None) == SecretStr(SECRET)
    assert mode(path) == 0o600
