"""`tollkeeper backup`: copies a SQLite database while servers use it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from tollkeeper.cli.command_settings import load_command_settings, require_sqlite_file
from tollkeeper.cli.output import make_console, print_line
from tollkeeper.database.sqlite_backup import back_up
from tollkeeper.errors import ConfigurationError
from tollkeeper.installation_secret import DATA_KEY
from tollkeeper.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to create. It must not exist yet.")],
) -> None:
    """Copy the SQLite database while servers use it.

    For PostgreSQL, use pg_dump.

    FILE is readable by its owner only, and complete: it is checked, and written to the disk.
    """
    settings = load_command_settings()
    require_sqlite_file(settings)
    if (source := settings.sqlite_path) is None:
        raise ConfigurationError(
            "This command copies SQLite databases. For PostgreSQL, run:"
            f' pg_dump --format=custom --file={file} "$TOLLKEEPER_DATABASE_URL"'
        )
    console = make_console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Copying")
        size = back_up(source, file, lambda done, total: progress.update(task, completed=done, total=total))
    print_line(f"{file}: {size:,} bytes, checked, and on the disk.")
    print_line(f"The data key is not in it. Keep a copy of {_place_of_data_key(settings)} in another place.")


def _place_of_data_key(settings: Settings) -> str:
    if settings.data_key is not None or settings.sqlite_path is None:
        return DATA_KEY.variable
    return str(settings.sqlite_path.parent / DATA_KEY.file_name)
