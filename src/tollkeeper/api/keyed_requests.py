"""Requests with an Idempotency-Key, which have their effect once."""

import hashlib
import re
from collections.abc import Sequence

from tollkeeper.api.attribution import attribution_of
from tollkeeper.errors import InvalidJson
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest

_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def keyed_request_of(headers: Sequence[tuple[bytes, bytes]], path: str, body: bytes) -> KeyedRequest | None:
    """The Idempotency-Key and the fingerprint of a request, its group and its tags; None without a key.

    Raises InvalidJson.
    """
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise InvalidJson("An Idempotency-Key is 1 to 255 printable characters without spaces.")
    fingerprint = hashlib.sha256(path.encode() + attribution_of(headers) + b"\0" + body)
    return KeyedRequest(keys[0].decode(), fingerprint.hexdigest())
