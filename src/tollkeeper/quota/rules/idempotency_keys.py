"""Idempotency keys: the types of a key, of the request that it came with, and of the response stored for it."""

from typing import NamedTuple

from tollkeeper.errors import IdempotencyMismatch
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.models import Basis, ChargeState

KEY_LIFETIME_MS = 86_400_000
"""How long a key refers to its call: 24 hours."""
MAX_STORED_BYTES = 256 * 1024
"""Bytes of the longest response body that is stored."""
MAX_ENCRYPTION_BYTES = 64
"""How much longer it may be as it is stored: encryption adds a few bytes."""
MAX_CONTENT_TYPE_LENGTH = 100
"""Characters of the longest content type that is stored."""


class KeyName(NamedTuple):
    """Identifies a key. Keys of different users are independent."""

    tenant_id: int
    user_id: int
    key: str


class KeyedRequest(NamedTuple):
    """A caller's key (1 to 255 printable ASCII characters) and the SHA-256 of the request, in hex."""

    key: str
    fingerprint: str

    def name(self, caller: Principal) -> KeyName:
        """The key as one of this caller."""
        return KeyName(caller.tenant_id, caller.user_id, self.key)

    def repeats(self, created_ms: int, fingerprint: str | None, now_ms: int) -> bool:
        """Whether this repeats the request that came with the same key at that time; False if the key has expired.

        Raises IdempotencyMismatch if the earlier request was another one.
        """
        if now_ms - created_ms >= KEY_LIFETIME_MS:
            return False
        if fingerprint != self.fingerprint:
            raise IdempotencyMismatch
        return True


class StoredResponse(NamedTuple):
    """A response that is stored for a key, to be returned again: HTTP status, content type and body."""

    status: int
    content_type: str
    body: bytes

    @property
    def is_storable(self) -> bool:
        """Whether it may be stored as it is, in plain text."""
        return self.fits_row and len(self.body) <= MAX_STORED_BYTES

    @property
    def fits_row(self) -> bool:
        """Whether it fits the columns of a row, plain or encrypted."""
        kind = self.content_type
        kind_fits = kind.isascii() and kind.isprintable() and len(kind) <= MAX_CONTENT_TYPE_LENGTH
        return kind_fits and 100 <= self.status <= 599 and len(self.body) <= MAX_STORED_BYTES + MAX_ENCRYPTION_BYTES


class KeyRow(NamedTuple):
    """A key as stored, with the state and basis of its charge at the time of reading."""

    name: KeyName
    charge_id: str
    fingerprint: str
    created_ms: int
    state: str
    basis: str | None
    response: StoredResponse | None = None

    def is_free(self, now_ms: int, lifetime_ms: int) -> bool:
        """Whether a new call may use the key: nothing was billed for its previous call, or the key has expired."""
        is_unbilled = self.state == ChargeState.RELEASED or self.basis == Basis.NONE
        return is_unbilled or now_ms - self.created_ms >= lifetime_ms

    @property
    def in_flight(self) -> bool:
        """Whether the key's call has not ended."""
        return self.state in (ChargeState.RESERVED, ChargeState.DISPATCHED)
