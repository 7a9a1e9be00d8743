"""Refresh tokens: each names its session and generation, and has a tag (HMAC-SHA-256), since it was made here.

So a forged token is distinguished from a genuine one that was used before, without a query. The successor of a token
is derived from it with a key: two requests with the same token get the same successor, which needs the key.
"""

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from tollkeeper.encryption.data_keys import DataKeys, Purpose

PREFIX = "tk-refresh-"
SESSION_PREFIX = "ses_"
MAX_LENGTH = 128
_TAG_BYTES = 16
_FORM = re.compile(
    rf"{PREFIX}(?P<session>[0-9a-f]{{24}})-(?P<generation>0|[1-9][0-9]{{0,8}})"
    r"-(?P<secret>[A-Za-z0-9_-]{43})-(?P<tag>[A-Za-z0-9_-]{22})"
)


class RefreshToken(NamedTuple):
    """A genuine token: the id of its session, how many tokens of it came before, and the text."""

    session_id: str
    generation: int
    text: str

    @property
    def hash(self) -> str:
        """What is stored of the newest token. One round of SHA-256 is enough, since a token has 256 random bits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"RefreshToken({self.session_id}, {self.generation})"


class RefreshTokens:
    """Makes and recognises refresh tokens."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def first(self) -> RefreshToken:
        """The first token of a new session."""
        return self._make(secrets.token_hex(12), 0, secrets.token_bytes(32))

    def successor(self, token: RefreshToken) -> RefreshToken:
        """The token that replaces this one: always the same."""
        secret = self._keys.mac(Purpose.SESSIONS, b"successor\0" + token.text.encode())
        return self._make(token.session_id.removeprefix(SESSION_PREFIX), token.generation + 1, secret)

    def recognise(self, text: str) -> RefreshToken | None:
        """The token, if it was made here; else None. Whether it is still valid, only its session tells."""
        form = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if form is None or not hmac.compare_digest(form["tag"], self._tag(text[: -len(form["tag"]) - 1])):
            return None
        return RefreshToken(SESSION_PREFIX + form["session"], int(form["generation"]), text)

    def _make(self, session: str, generation: int, secret: bytes) -> RefreshToken:
        body = f"{PREFIX}{session}-{generation}-{_encode(secret)}"
        return RefreshToken(SESSION_PREFIX + session, generation, f"{body}-{self._tag(body)}")

    def _tag(self, body: str) -> str:
        return _encode(self._keys.mac(Purpose.SESSIONS, b"tag\0" + body.encode())[:_TAG_BYTES])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
