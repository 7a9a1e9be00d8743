"""A database that a user of PostgreSQL with few rights owns, and the URLs of other users."""

import asyncio
import re
import uuid

from support.postgres_servers import execute, on_database
from tollkeeper.database.migrations import migrate


class Owner:
    """A database that a user with few rights owns, and which is migrated by that user."""

    def __init__(self, admin_url: str) -> None:
        self.name = f"owner_{uuid.uuid4().hex[:12]}"
        self.admin_url = admin_url
        self.url = url_of(admin_url, self.name, self.name)
        self.admin_url_here = on_database(admin_url, self.name)

    async def create(self, attributes: str = "") -> str | None:
        """Returns what the migration says."""
        await execute(self.admin_url, f"CREATE ROLE {self.name} LOGIN PASSWORD 'secret' {attributes}")
        await execute(self.admin_url, f"CREATE DATABASE {self.name} OWNER {self.name}")
        return (await asyncio.to_thread(migrate, self.url)).problem

    async def drop(self) -> None:
        await execute(self.admin_url, f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        for role in (f"{self.name}_requests", f"{self.name}_other", self.name):
            await execute(self.admin_url, f"DROP ROLE IF EXISTS {role}")


def url_of(url: str, user: str, database: str | None = None) -> str:
    """The URL for another user, whose password is 'secret'; of another database on the same server, if one is named."""
    found = re.fullmatch(r"postgresql://(?:[^@/]*@)?([^/]*)/([^?]*)(.*)", url)
    assert found is not None
    return f"postgresql://{user}:secret@{found[1]}/{database or found[2]}{found[3]}"
