"""Variables by name: from the environment, from `.env`, or from the file that NAME_FILE names."""

import os
from collections.abc import Sequence
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from tollkeeper.errors import ConfigurationError
from tollkeeper.settings.secret_files import SUFFIX, read_secret_file

ENV_FILE = ".env"


def read_variable(name: str) -> SecretStr | None:
    """Returns a variable of the environment or `.env` that is not a setting itself, or the content of the file that
    NAME_FILE names; None if both are unset or empty. Raises ConfigurationError for such a file, or if both are set.
    """
    value, in_file = raw_variable(name), read_from_file(name)
    if value and in_file is not None:
        raise set_twice(name, [name])
    value = value or in_file
    return SecretStr(value) if value else None


def raw_variable(name: str) -> str | None:
    """The value of a variable in the environment or `.env`. Raises ConfigurationError."""
    return os.environ.get(name) or read_env_file().get(name)


def read_from_file(name: str) -> str | None:
    """The secret in the file that the variable NAME_FILE names; None if that is not set. Raises ConfigurationError."""
    variable = name + SUFFIX
    path = raw_variable(variable)
    return read_secret_file(variable, path) if path else None


def set_twice(name: str, names: Sequence[str]) -> ConfigurationError:
    """The error for a variable `name` that is set beside the file of one of these variables."""
    variable = next(one + SUFFIX for one in names if raw_variable(one + SUFFIX))
    return ConfigurationError(f"{name} and {variable} are both set. Set only one of them.")


def read_env_file() -> dict[str, str | None]:
    """The variables in `.env`. Raises ConfigurationError."""
    try:
        return dotenv_values(ENV_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_env_file(error) from None


def unreadable_env_file(error: Exception) -> ConfigurationError:
    """The error for a `.env` that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return ConfigurationError(f"Cannot read the settings in {Path(ENV_FILE).absolute()}: {reason}.")
