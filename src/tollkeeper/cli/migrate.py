"""`tollkeeper migrate`: creates or upgrades the tables."""

import typer

from tollkeeper.cli.command_settings import load_command_settings
from tollkeeper.cli.output import print_line
from tollkeeper.database.schema_revision import SCHEMA_REVISION
from tollkeeper.database.sqlite_file import read_schema_revision
from tollkeeper.private_files import secure_sqlite_files
from tollkeeper.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def migrate() -> None:
    """Create the database's tables, or upgrade them to this version."""
    settings = load_command_settings()
    before = migrate_database(settings)
    database = f"The schema of the database{f' {settings.sqlite_path}' if settings.sqlite_path is not None else ''}"
    if before is None:
        print_line(f"{database} was created, at revision {SCHEMA_REVISION}.")
    elif before == SCHEMA_REVISION:
        print_line(f"{database} is up to date, at revision {SCHEMA_REVISION}.")
    else:
        print_line(f"{database} was upgraded from revision {before} to {SCHEMA_REVISION}.")


def migrate_database(settings: Settings) -> str | None:
    """Migrate the schema to SCHEMA_REVISION, if it is not there yet. Returns the revision before; None if there was no
    schema. Raises ConfigurationError.

    Prints a warning if the database's user lacks the rights for row-level security.
    """
    if (path := settings.sqlite_path) is not None:
        secure_sqlite_files(path)
        if read_schema_revision(path) == SCHEMA_REVISION:
            return SCHEMA_REVISION
    from tollkeeper.database.migrations import migrate  # loads Alembic, which takes longer than most commands

    is_indexed = settings.vector_index == "pgvector"
    before, problem, index_problem = migrate(settings.database_url, vector_index=is_indexed)
    if index_problem is not None:
        print_line(f"WARNING: TOLLKEEPER_VECTOR_INDEX has no effect: searches are exact. {index_problem}", error=True)
    if problem is not None:
        print_line(f"WARNING: Row-level security is not in use, the second wall between tenants. {problem}", error=True)
    return before
