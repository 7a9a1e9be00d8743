"""Keys that encrypt what is stored: one per purpose, made at random, and stored encrypted with the data key.

So a new data key only means that these few keys are encrypted anew; what they have encrypted stays as it is. The cipher
is AES-256-GCM with random nonces of 96 bits (NIST SP 800-38D, 8.2.2: at most 2^32 messages per key).
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select, update

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.models import WrappedKey
from tollkeeper.errors import ConfigurationError, SealBroken

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = b"\x01"
SEAL_BYTES = len(_VERSION) + NONCE_BYTES + 16
"""How much longer a sealed text is than the plain one: version, nonce, and the tag of GCM."""


class Purpose(StrEnum):
    """What a key is for. Each purpose has a key of its own."""

    AUDIT = "audit"
    """Authenticates the lines of the audit log; encrypts nothing."""
    PROVIDER_KEYS = "provider_keys"
    IDENTITY = "identity"
    """Secrets of second factors and of OpenID clients, and the state of a single sign-on."""
    SESSIONS = "sessions"
    """Makes and authenticates refresh tokens; encrypts nothing."""
    CONVERSATIONS = "conversations"
    CONTENTS = "contents"
    """What calls asked and were answered, of tenants that have turned this on."""
    RESPONSES = "responses"
    """Stored responses, for requests that are repeated with the same idempotency key."""
    JOBS = "jobs"
    """Requests and results of background jobs."""
    WEBHOOKS = "webhooks"
    """URLs and secrets of webhooks."""
    DOCUMENTS = "documents"
    """Documents with their names, chunks and vectors; it also makes the hashes of words in the index."""
    FILES = "files"
    """The contents and names of files, and what users put into batches."""


class DataKeys:
    """Encrypts and decrypts what is stored. `load` must be called first.

    `data_key` encrypts the keys; those that `previous` encrypted are encrypted anew by `load`.
    """

    def __init__(self, data_key: SecretStr, *, previous: SecretStr | None = None) -> None:
        self._wrapping = AESGCM(_derive(data_key))
        self._previous = AESGCM(_derive(previous)) if previous is not None else None
        self._keys: dict[Purpose, bytes] = {}
        self._ciphers: dict[Purpose, AESGCM] = {}

    async def load(self, database: Database, clock: Clock) -> None:
        """Read the keys, and create those that do not exist. Raises ConfigurationError for another data key,
        DatabaseUnavailable.
        """
        stored = await self._read(database)
        for purpose in Purpose:
            if purpose.value not in stored:
                await self._create(database, purpose, clock.now_ms())
        stored = await self._read(database)
        self.use({purpose: await self._unwrap(database, purpose, stored[purpose.value]) for purpose in Purpose})

    def use(self, keys: Mapping[Purpose, bytes]) -> None:
        """Encrypt and decrypt with these keys."""
        self._keys = dict(keys)
        self._ciphers = {purpose: AESGCM(key) for purpose, key in keys.items()}

    def seal(self, purpose: Purpose, plain: bytes, place: str) -> bytes:
        """Encrypt. `place` names where the result is stored, with tenant and row: it is readable nowhere else."""
        return _encrypt(self._ciphers[purpose], plain, place)

    def unseal(self, purpose: Purpose, sealed: bytes, place: str) -> bytes:
        """Decrypt what `seal` returned for the same purpose and place. Raises SealBroken for anything else."""
        return _decrypt(self._ciphers[purpose], sealed, place)

    @staticmethod
    def is_sealed(stored: bytes) -> bool:
        """Whether this begins as `seal` returns it. No JSON document and no server-sent event begins so."""
        return stored.startswith(_VERSION)

    def mac(self, purpose: Purpose, message: bytes) -> bytes:
        """Returns the HMAC-SHA-256 of a message: 32 bytes."""
        return hmac.digest(self._keys[purpose], message, hashlib.sha256)

    async def _read(self, database: Database) -> dict[str, bytes]:
        async with database.session() as session:
            rows = (await session.exec(select(WrappedKey))).all()
        return {row.purpose: row.wrapped for row in rows}

    async def _create(self, database: Database, purpose: Purpose, now_ms: int) -> None:
        """Store a new key, unless another process has stored one meanwhile."""
        wrapped = _encrypt(self._wrapping, os.urandom(KEY_BYTES), purpose.value)
        row = {"purpose": purpose.value, "wrapped": wrapped, "created_ms": now_ms}
        try:
            async with database.session() as session:
                await (await session.connection()).execute(insert(WrappedKey), row)
        except IntegrityError:
            return

    async def _unwrap(self, database: Database, purpose: Purpose, wrapped: bytes) -> bytes:
        try:
            return _decrypt(self._wrapping, wrapped, purpose.value)
        except SealBroken:
            pass
        try:
            if self._previous is None:
                raise SealBroken
            key = _decrypt(self._previous, wrapped, purpose.value)
        except SealBroken:
            raise ConfigurationError(
                "TOLLKEEPER_DATA_KEY is not the key with which this database was encrypted. Set the right one, or, if"
                " it is not set, restore the file `data-key` beside the database. After a change, set the old one as"
                " TOLLKEEPER_PREVIOUS_DATA_KEY."
            ) from None
        anew = _encrypt(self._wrapping, key, purpose.value)
        is_same = col(WrappedKey.purpose) == purpose.value, col(WrappedKey.wrapped) == wrapped
        async with database.session() as session:
            await session.exec(update(WrappedKey).where(*is_same).values(wrapped=anew))
        return key


def _derive(secret: SecretStr) -> bytes:
    """The AES key for a data key, which has enough random bits by itself."""
    return hashlib.sha256(b"tollkeeper data key" + secret.get_secret_value().encode()).digest()


def _encrypt(cipher: AESGCM, plain: bytes, place: str) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return _VERSION + nonce + cipher.encrypt(nonce, plain, place.encode())


def _decrypt(cipher: AESGCM, sealed: bytes, place: str) -> bytes:
    if sealed[:1] != _VERSION:
        raise SealBroken
    nonce, rest = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        return cipher.decrypt(nonce, rest, place.encode())
    except (InvalidTag, ValueError):
        raise SealBroken from None
