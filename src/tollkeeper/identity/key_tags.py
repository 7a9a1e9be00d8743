"""Tags in API keys: a key that this server did not create is refused without a look-up.

A key is a prefix, 256 random bits, and an HMAC-SHA-256 of these, cut to 128 bits, with a secret of the installation.
"""

import base64
import hashlib
import hmac

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import KeyTagSecret

TAGGED_PREFIX = "tk-v2-"
RANDOM_LENGTH = 43
"""Characters of 256 bits in base64url, without padding."""
TAG_LENGTH = 22
TAGGED_LENGTH = len(TAGGED_PREFIX) + RANDOM_LENGTH + TAG_LENGTH
RELOAD_MS = 30_000
"""How old the known secrets must be before an unknown tag leads to a look whether there are newer ones."""


def is_tagged(key: str) -> bool:
    """Whether a key has the form of a tagged one. Keys of earlier versions have no tag."""
    return len(key) == TAGGED_LENGTH and key.startswith(TAGGED_PREFIX)


def tag(random: str, secret: bytes) -> str:
    """Returns the tag for the random part of a key."""
    digest = hmac.digest(secret, (TAGGED_PREFIX + random).encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


async def newest_secret(session: AsyncSession) -> bytes:
    """Returns the secret that makes tags."""
    query = select(KeyTagSecret).order_by(col(KeyTagSecret.id).desc()).limit(1)
    return (await session.exec(query)).one().secret


class KeyTags:
    """Verifies tags with all secrets of the installation, which are read once, and again for tags of a newer one."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._secrets: tuple[bytes, ...] = ()
        self._read_ms: int | None = None

    async def is_genuine(self, key: str) -> bool:
        """Whether the tag of a tagged key was made here. Raises DatabaseUnavailable while no secret was read."""
        random, found = key[len(TAGGED_PREFIX) : -TAG_LENGTH], key[-TAG_LENGTH:].encode("utf-8", "surrogatepass")
        if self._matches(random, found):
            return True
        now_ms = self._clock.now_ms()
        if self._read_ms is not None and now_ms - self._read_ms < RELOAD_MS:
            return False
        await self.load()
        return self._matches(random, found)

    async def load(self) -> None:
        """Read the secrets. Raises DatabaseUnavailable."""
        self._read_ms = self._clock.now_ms()
        try:
            async with self._database.session() as session:
                self._secrets = tuple((await session.exec(select(KeyTagSecret.secret))).all())
        except BaseException:
            self._read_ms = None
            raise

    def _matches(self, random: str, found: bytes) -> bool:
        return any(hmac.compare_digest(tag(random, secret).encode(), found) for secret in self._secrets)
