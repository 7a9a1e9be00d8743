"""The signing secret: the operator's, or, for an embedded install that only this machine can reach, made and kept."""

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from tollkeeper.errors import ConfigurationError
from tollkeeper.settings import Settings, check_secret

FILE_NAME = "signing-secret"


def signing_secret(settings: Settings) -> SecretStr:
    """The secret that signs tokens. Raises ConfigurationError when it is missing or weak."""
    if settings.signing_secret is not None:
        return check_secret(settings.signing_secret)
    if settings.sqlite_path is None or not settings.serves_loopback_only:
        raise ConfigurationError(
            "TOLLKEEPER_SIGNING_SECRET is missing: PostgreSQL needs it, and so does a server that others can reach."
            " Make one with: openssl rand -hex 32"
        )
    return _kept(settings.sqlite_path.parent / FILE_NAME)


def _kept(path: Path) -> SecretStr:
    """The secret beside the database, made on first use, readable by its owner only."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return check_secret(SecretStr(path.read_text().strip()))
    except OSError as error:
        raise ConfigurationError(f"The folder {path.parent} cannot be written to: {error.strerror}.") from None
    secret = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    return SecretStr(secret)
