"""The secret that signs access tokens: from the settings, or from a file beside the SQLite database.

The file is created only for a server that no other machine can reach.
"""

import secrets
from pathlib import Path

from pydantic import SecretStr

from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import create_private_file, narrow_mode
from tollkeeper.settings import Settings

FILE_NAME = "signing-secret"
MIN_SECRET_BYTES = 32
EXAMPLE_SECRET = "change-me-to-at-least-32-random-bytes"  # noqa: S105 - rejected as a secret


def load_signing_secret(settings: Settings) -> SecretStr:
    """Returns the secret that signs access tokens. Raises ConfigurationError when it is missing or weak."""
    if settings.signing_secret is not None:
        return check_signing_secret(settings.signing_secret)
    if settings.sqlite_path is None or not settings.serves_loopback_only:
        raise ConfigurationError(
            "TOLLKEEPER_SIGNING_SECRET is missing: PostgreSQL needs it, and so does a server that others can reach."
            " Make one with: openssl rand -hex 32"
        )
    return _read_or_create(settings.sqlite_path.parent / FILE_NAME)


def check_signing_secret(secret: SecretStr) -> SecretStr:
    """Returns the signing secret if it is strong enough for HS256 (RFC 7518, 3.2: at least 256 bits).

    Raises ConfigurationError, which tells how to generate one.
    """
    value = secret.get_secret_value()
    if value == EXAMPLE_SECRET or len(value.encode()) < MIN_SECRET_BYTES or len(set(value)) < 8:
        raise ConfigurationError(
            "TOLLKEEPER_SIGNING_SECRET is weak: it needs at least 32 random bytes. Make one with: openssl rand -hex 32"
        )
    return secret


def _read_or_create(path: Path) -> SecretStr:
    """Returns the secret in the file. On first use, creates the file, readable by its owner only."""
    secret = secrets.token_hex(32)
    try:
        create_private_file(path, secret + "\n")
    except FileExistsError:
        narrow_mode(path)
        return _read(path)
    except OSError as error:
        raise ConfigurationError(f"The folder {path.parent} cannot be written to: {error.strerror}.") from None
    return SecretStr(secret)


def _read(path: Path) -> SecretStr:
    """Raises ConfigurationError for a file that cannot be read, or whose secret is weak."""
    try:
        secret = SecretStr(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"Cannot read the signing secret in {path}: {reason}.") from None
    try:
        return check_signing_secret(secret)
    except ConfigurationError:
        raise ConfigurationError(
            f"The signing secret in {path} is weak. Delete the file: the server makes another, and all users log in"
            " again."
        ) from None
