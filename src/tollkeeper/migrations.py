"""Database migrations. The server does not import this module: it checks the schema, and never changes it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError

from tollkeeper.errors import ConfigurationError

_INSTALLED = Path(__file__).parent / "_migrations"
_CHECKOUT = Path(__file__).parents[2] / "alembic"


def alembic_config(database_url: str) -> Config:
    """Returns Alembic's configuration, with the migrations of this version of the code."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    config = Config(folder / "alembic.ini")
    config.attributes["database_url"] = database_url
    return config


def migrate(database_url: str) -> None:
    """Migrate the schema to the newest revision, if it is not there yet. Raises ConfigurationError."""
    try:
        if database_url.startswith("sqlite:///"):
            Path(database_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        command.upgrade(alembic_config(database_url), "head")
    except OSError as error:
        raise ConfigurationError(f"The database cannot be opened: {error}.") from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise ConfigurationError(f"The database cannot be migrated: {reason}.") from None
