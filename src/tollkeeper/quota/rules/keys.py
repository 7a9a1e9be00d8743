"""Idempotency keys: what a caller may give a call, and what is stored of it for a day."""

from typing import NamedTuple

from tollkeeper.quota.rules.models import Basis, State

KEY_LIFETIME_MS = 86_400_000
"""How long a key stands for its call: 24 hours."""
MAX_STORED_BYTES = 256 * 1024
"""Bytes of the longest answer that is kept."""
MAX_CONTENT_TYPE = 100


class KeyName(NamedTuple):
    """A key is its user's own."""

    user_id: int
    key: str


class KeyedRequest(NamedTuple):
    """A caller's key (1 to 255 printable ASCII characters) and the SHA-256 of the request, in hex."""

    key: str
    fingerprint: str

    def name(self, user_id: int) -> KeyName:
        return KeyName(user_id, self.key)


class StoredResponse(NamedTuple):
    """An answer to be given again: its HTTP status, content type and body."""

    status: int
    content_type: str
    body: bytes

    @property
    def storable(self) -> bool:
        """Whether it has room in a row."""
        kind = self.content_type
        plain = kind.isascii() and kind.isprintable() and len(kind) <= MAX_CONTENT_TYPE
        return plain and 100 <= self.status <= 599 and len(self.body) <= MAX_STORED_BYTES


class KeyRow(NamedTuple):
    """A key as stored, with how its charge stood when it was read."""

    name: KeyName
    charge_id: str
    fingerprint: str
    created_ms: int
    state: str
    basis: str | None
    answer: StoredResponse | None = None

    def free(self, now_ms: int) -> bool:
        """Whether the next call may have the key: nothing was billed for its call, or it is too old."""
        return self.state == State.RELEASED or self.basis == Basis.NONE or now_ms - self.created_ms >= KEY_LIFETIME_MS

    @property
    def in_flight(self) -> bool:
        return self.state in (State.RESERVED, State.DISPATCHED)
