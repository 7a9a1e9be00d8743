"""Requests with an Idempotency-Key, which have their effect once."""

import hashlib
import re
from collections.abc import Sequence

from tollkeeper.api.attribution import GROUP_HEADER
from tollkeeper.errors import InvalidJson
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest

_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def keyed_request_of(headers: Sequence[tuple[bytes, bytes]], path: str, body: bytes) -> KeyedRequest | None:
    """The Idempotency-Key and the fingerprint of a request and its group; None without a key. Raises InvalidJson."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise InvalidJson("An Idempotency-Key is 1 to 255 printable characters without spaces.")
    group = b"".join(b"\0" + value for name, value in headers if name == GROUP_HEADER)
    return KeyedRequest(keys[0].decode(), hashlib.sha256(path.encode() + group + b"\0" + body).hexdigest())
