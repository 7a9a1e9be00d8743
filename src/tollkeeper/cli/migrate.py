"""`tollkeeper migrate`: creates or upgrades the tables."""

import typer

from tollkeeper.cli.command_settings import load_command_settings
from tollkeeper.cli.output import print_line
from tollkeeper.private_files import secure_sqlite_files
from tollkeeper.schema_revision import SCHEMA_REVISION
from tollkeeper.settings import Settings
from tollkeeper.sqlite_file import read_schema_revision

app = typer.Typer(add_completion=False)


@app.command()
def migrate() -> None:
    """Create the database's tables, or upgrade them to this version."""
    settings = load_command_settings()
    migrate_database(settings)
    place = f" {settings.sqlite_path}" if settings.sqlite_path is not None else ""
    print_line(f"The schema of the database{place} is up to date.")


def migrate_database(settings: Settings) -> None:
    """Migrate the schema to SCHEMA_REVISION, if it is not there yet. Raises ConfigurationError.

    Prints a warning if the database's user lacks the rights for row-level security.
    """
    if (path := settings.sqlite_path) is not None:
        secure_sqlite_files(path)
        if read_schema_revision(path) == SCHEMA_REVISION:
            return
    from tollkeeper.migrations import migrate  # loads Alembic, which takes longer than most commands

    if (problem := migrate(settings.database_url)) is not None:
        print_line(f"WARNING: Row-level security is not in use, the second wall between tenants. {problem}", error=True)
