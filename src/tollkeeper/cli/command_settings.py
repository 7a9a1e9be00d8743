"""The settings of a command, with warnings of variables that have no effect."""

from tollkeeper.cli.output import print_line
from tollkeeper.errors import ConfigurationError
from tollkeeper.settings import Settings, load_settings
from tollkeeper.settings.warnings import setting_warnings


def load_command_settings(**overrides: object) -> Settings:
    """Returns the settings, and warns on standard error of variables that have no effect. Raises ConfigurationError."""
    settings = load_settings(**overrides)
    for warning in setting_warnings(settings):
        print_line(f"Warning: {warning}", error=True)
    return settings


def require_sqlite_file(settings: Settings) -> None:
    """Raise ConfigurationError if the settings name an SQLite database that does not exist."""
    if (path := settings.sqlite_path) is not None and not path.is_file():
        raise ConfigurationError(
            f"No database at {path}. Create it with: tollkeeper migrate. Or set TOLLKEEPER_DATABASE_URL."
        )
