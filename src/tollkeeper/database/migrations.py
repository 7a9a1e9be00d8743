"""Database migrations. The server does not import this module: it checks the schema, and never changes it."""

from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from tollkeeper.database.errors import describe_error
from tollkeeper.database.row_security import RowSecurity
from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import create_private_folder, secure_sqlite_files

_INSTALLED = Path(__file__).parents[1] / "_migrations"
_CHECKOUT = Path(__file__).parents[3] / "alembic"


def alembic_config(database_url: str) -> Config:
    """Returns Alembic's configuration, with the migrations of this version of the code."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    config = Config(folder / "alembic.ini")
    config.attributes["database_url"] = database_url
    return config


class Migrated(NamedTuple):
    """What a migration has found and made.

    `before` is the revision that the schema had; None for an empty database. `problem` says why there is no role of
    requests, so that row-level security does not separate tenants, and `index_problem` why there is no index of vectors
    that was wanted.
    """

    before: str | None
    problem: str | None
    index_problem: str | None = None


def migrate(database_url: str, *, vector_index: bool = False) -> Migrated:
    """Migrate the schema to the newest revision, if it is not there yet. Raises ConfigurationError.

    With `vector_index`, PostgreSQL gets the table of the index of vectors, if it has the extension.
    Creates the file of an SQLite database and its folder, for their owner only; on PostgreSQL, the role of requests.
    """
    name, config = "The database", alembic_config(database_url)
    config.attributes["vector_index"] = vector_index
    try:
        if database_url.startswith("sqlite:///"):
            path = Path(database_url.removeprefix("sqlite:///")).absolute()
            name = f"The database {path}"
            create_private_folder(path.parent)
            secure_sqlite_files(path)
        command.upgrade(config, "head")
    except CommandError:
        raise ConfigurationError(
            "The database schema is newer than this version. Install the version that has migrated it, or a newer one."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be opened: {error.strerror or error}.") from None
    except SQLAlchemyError as error:
        raise ConfigurationError(f"{name} cannot be migrated: {describe_error(error)}.") from None
    found: RowSecurity | None = config.attributes.get("row_security")
    problem = found.problem if found is not None else None
    return Migrated(config.attributes["revision_before"], problem, config.attributes.get("vector_index_problem"))
