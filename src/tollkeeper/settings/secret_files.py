"""Secrets in files: the variable NAME_FILE names the file of the secret NAME, as container platforms provide them."""

from pathlib import Path

from tollkeeper.errors import ConfigurationError

SUFFIX = "_FILE"
MAX_BYTES = 64 * 1024


def read_secret_file(variable: str, path: str) -> str:
    """Returns the content of the file, without the line end at its end.

    Raises ConfigurationError, which names the variable and the file, but nothing of the content.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigurationError(f"{variable} cannot be used: {path}: {error.strerror}.") from None
    except ValueError:
        raise ConfigurationError(f"{variable} cannot be used: {path} is not UTF-8 text.") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{variable} cannot be used: {path} has more than {MAX_BYTES} bytes.")
    if not secret:
        raise ConfigurationError(f"{variable} cannot be used: {path} is empty.")
    return secret
