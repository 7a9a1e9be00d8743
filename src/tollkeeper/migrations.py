"""Bringing the schema up. Not imported by the server, which only checks what it finds."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError

from tollkeeper.errors import ConfigurationError

_INSTALLED = Path(__file__).parent / "_migrations"
_CHECKOUT = Path(__file__).parents[2] / "alembic"


def config(database_url: str) -> Config:
    """Alembic's configuration for the migrations that came with this code."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    made = Config(folder / "alembic.ini")
    made.attributes["database_url"] = database_url
    return made


def migrate(database_url: str) -> None:
    """Bring the schema to the newest revision; nothing happens when it is there. Raises ConfigurationError."""
    try:
        if database_url.startswith("sqlite:///"):
            Path(database_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        command.upgrade(config(database_url), "head")
    except OSError as error:
        raise ConfigurationError(f"The database cannot be opened: {error}.") from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise ConfigurationError(f"The database cannot be migrated: {reason}.") from None
