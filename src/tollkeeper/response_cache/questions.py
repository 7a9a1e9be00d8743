"""What identifies a question: two calls with the same key may have the same answer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import orjson

from tollkeeper.worker_thread import pause

DELIVERY = ("stream", "stream_options")
"""Fields of a provider's request that say how the answer is sent, and change nothing of it."""
ORDERED = b'"properties"'
"""The field of a JSON Schema whose order a model follows when it writes an object."""
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 16
"""What a number may contain, each digit as 0, that orjson would round: one of more than 64 bits."""


class CacheScope(StrEnum):
    """Whose calls a tenant's cache answers, with answers of whom.

    `off`: calls that ask for it, with the user's own answers. `user`: all calls, with the user's own answers. `tenant`:
    all calls, with the answers of all users of the tenant.
    """

    OFF = "off"
    USER = "user"
    TENANT = "tenant"


class Owner(NamedTuple):
    """Who may receive an answer again: a user or, without `user_id`, all users of a tenant."""

    tenant_id: int
    user_id: int | None


class Question(NamedTuple):
    """A question, with all that its answer depends on.

    `body` is the request in the provider's wire format, as JSON. `form` is in which form the answer is kept.
    `limits` are what the caller set beside the body: the output limit, the allocation, the number of choices.
    `moderation` identifies the policy under which the answer was checked.
    """

    owner: Owner
    provider: str
    model: str
    upstream: str
    with_tenant_key: bool
    form: str
    moderation: str
    limits: tuple[int | None, ...]
    headers: Mapping[str, str]
    body: bytes


def key_of(question: Question) -> bytes:
    """The SHA-256 of all that the answer depends on."""
    described = msgspec.json.encode((*question[:-2], sorted(question.headers.items())))
    body = canonical_body(question.body)
    pause()
    digest = hashlib.sha256(b"%d:%b%d:" % (len(described), described, len(body)))
    digest.update(body)
    return digest.digest()


def keys_of_parts(question: Question, parts: Sequence[bytes]) -> tuple[bytes, ...]:
    """The key of each part of a request whose answer has a part for each. The question is the request without parts."""
    beginning = key_of(question)
    keys = []
    for part in parts:
        pause()
        keys.append(hashlib.sha256(beginning + part).digest())
    return tuple(keys)


def canonical_body(body: bytes) -> bytes:
    """The JSON of a request in one form, whatever the order of its fields; without how the answer is to be delivered.

    The order of a schema's properties stays. What cannot be parsed, or is nested too deep to be written, stays as it
    is.
    """
    is_usual = ORDERED not in body and _LONG_NUMBER not in body.translate(_DIGITS)
    try:
        value = orjson.loads(body) if is_usual else json.loads(body, object_pairs_hook=_object)
        pause()
        if isinstance(value, dict):
            for name in DELIVERY:
                value.pop(name, None)
        if is_usual:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError):  # orjson writes 254 levels, and reads 1,024
        return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose schema properties are a list, which keeps their order."""
    found = dict(pairs)
    properties = found.get("properties")
    if isinstance(properties, dict):
        found["properties"] = list(properties.items())
    return found
