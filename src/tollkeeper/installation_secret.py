"""Secrets of an installation: from the settings, or from a file beside the SQLite database.

The file of the signing secret is created only for a server that no other machine can reach.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from tollkeeper.database.sqlite_file import has_rows
from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import create_private_file, narrow_mode
from tollkeeper.settings import Settings

MIN_BYTES = 32
EXAMPLE = "change-me-to-at-least-32-random-bytes"


@dataclass(frozen=True, slots=True)
class InstallationSecret:
    """One of the secrets. `if_weak` says what to do about a file whose secret is weak. `in_file_on_loopback_only`: a
    server that others can reach gets it from the settings. `used_by` is the table whose rows only this secret opens.
    """

    variable: str
    file_name: str
    noun: str
    if_weak: str
    in_file_on_loopback_only: bool
    used_by: str | None = None

    def load(self, settings: Settings, value: SecretStr | None) -> SecretStr:
        """Returns the secret; `value` is that of the settings. Raises ConfigurationError if it is missing or weak."""
        if value is not None:
            return self.check(value)
        reachable = self.in_file_on_loopback_only and not settings.serves_loopback_only
        if settings.sqlite_path is None or reachable:
            others = ", and so does a server that others can reach" if self.in_file_on_loopback_only else ""
            raise ConfigurationError(
                f"{self.variable} is missing: PostgreSQL needs it{others}."
                f" Make one, and use the same at every start: export {self.variable}=$(openssl rand -hex 32)"
            )
        return self._read_or_create(settings.sqlite_path.parent / self.file_name, settings.sqlite_path)

    def will_be_created(self, settings: Settings, value: SecretStr | None) -> bool:
        """Whether the next `load` creates the file; `value` is that of the settings."""
        path = settings.sqlite_path
        may_create = settings.serves_loopback_only or not self.in_file_on_loopback_only
        if value is not None or path is None or not may_create or (path.parent / self.file_name).exists():
            return False
        return self.used_by is None or not has_rows(path, self.used_by)

    def check(self, secret: SecretStr) -> SecretStr:
        """Returns the secret if it has at least 256 bits. Raises ConfigurationError, which tells how to make one."""
        if not _is_strong(secret):
            raise ConfigurationError(
                f"{self.variable} is weak: it needs at least 32 random bytes. Make one with: openssl rand -hex 32"
            )
        return secret

    def _read_or_create(self, path: Path, database: Path) -> SecretStr:
        """Returns the secret in the file. On first use, creates the file, readable by its owner only. Raises
        ConfigurationError, also if the file is missing and the database has rows that only its secret opens.
        """
        if self.used_by is not None and not path.exists() and has_rows(database, self.used_by) and not path.exists():
            raise ConfigurationError(
                f"The {self.noun} is missing: there is no file {path}, and {database} has data that is encrypted with"
                f" it. Restore the file from a backup, or set {self.variable} to the secret that was in it."
            )
        secret = secrets.token_hex(32)
        try:
            create_private_file(path, secret + "\n")
        except FileExistsError:
            narrow_mode(path)
            return self._read(path)
        except OSError as error:
            raise ConfigurationError(f"The folder {path.parent} cannot be written to: {error.strerror}.") from None
        return SecretStr(secret)

    def _read(self, path: Path) -> SecretStr:
        """Raises ConfigurationError for a file that cannot be read, or whose secret is weak."""
        try:
            secret = SecretStr(path.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"Cannot read the {self.noun} in {path}: {reason}.") from None
        if not _is_strong(secret):
            raise ConfigurationError(f"The {self.noun} in {path} is weak. {self.if_weak}")
        return secret


SIGNING_SECRET = InstallationSecret(
    "TOLLKEEPER_SIGNING_SECRET",
    "signing-secret",
    "signing secret",
    "Delete the file: the server makes another, and all users log in again.",
    in_file_on_loopback_only=True,
)
"""Signs access tokens with HS256, which needs at least 256 bits (RFC 7518, 3.2)."""
DATA_KEY = InstallationSecret(
    "TOLLKEEPER_DATA_KEY",
    "data-key",
    "data key",
    "Restore the file from a backup: without it, what was encrypted with it cannot be read.",
    in_file_on_loopback_only=False,
    used_by="wrapped_keys",
)
"""Encrypts what is stored (see `encryption/`)."""


def _is_strong(secret: SecretStr) -> bool:
    value = secret.get_secret_value()
    return value != EXAMPLE and len(value.encode()) >= MIN_BYTES and len(set(value)) >= 8
