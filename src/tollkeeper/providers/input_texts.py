"""The texts of a request that count as input, where the provider reports no usage."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from tollkeeper.dialects.parameters import NO_EXTRA
from tollkeeper.providers.base import CallInput, RawRequest
from tollkeeper.worker_thread import pause


def input_texts(call_input: CallInput, extra: Mapping[str, bytes] = NO_EXTRA) -> Callable[[], tuple[str, ...]]:
    """Returns the texts that a tokenizer has to count: of a raw request all text in it, in unknown fields too.

    `extra` are the fields beyond its wire format that are sent. The text in them can become input.
    """
    raw = call_input.raw
    return (lambda: call_input.chat_request.texts) if raw is None else (lambda: tuple(_texts_in(raw, extra)))


_INPUT_FIELDS = frozenset(
    {"messages", "input", "system", "instructions", "tools", "functions", "response_format", "text", "output_config"}
)
"""The top-level fields that become input of the model."""
_STRUCTURAL_KEYS = frozenset(
    {"role", "content", "type", "text", "id", "name", "function", "input", "image_url", "url", "source"}
)
"""Keys of the wire formats, which are not input of the model."""
_LABEL_KEYS, MAX_LABEL_CHARS = frozenset({"role", "type"}), 32
"""Under these keys, a string of at most so many characters is a label of the wire format, and not input."""
_PICTURE_TYPES = frozenset({"image_url", "input_image", "image"})
_PICTURE_KEYS = frozenset({"type", "image_url", "source", "detail", "cache_control"})
PDF = "application/pdf"
_PDF_KEYS = frozenset({"type", "media_type", "data"})
_FREE_FORM_KEYS = frozenset({"input", "arguments", "input_schema", "parameters", "schema", "json_schema"})
"""An object under one of these keys is the caller's own: nothing in it is a picture."""
_BEGINS_WITH_TEXT = frozenset({b'"', b"[", b"{"})
"""The first byte of JSON that can have text in it."""


def _texts_in(raw: RawRequest, extra: Mapping[str, bytes]) -> Iterator[str]:
    """Every string that holds no picture and no PDF, every number, and every key that is not the wire format's own."""
    pending: list[tuple[Any, bool]] = []
    for name, encoded in raw.fields.items():
        if name in _INPUT_FIELDS:
            pause()
            pending.append((orjson.loads(encoded), False))
    pending += [(orjson.loads(encoded), True) for encoded in extra.values() if encoded[:1] in _BEGINS_WITH_TEXT]
    while pending:
        value, free_form = pending.pop()
        match value:
            case str():
                yield value
            case list():
                pending += [(one, free_form) for one in value]
            case dict():
                yield from value.keys() - _STRUCTURAL_KEYS
                if not free_form and value.get("media_type") == PDF and not value.keys() - _PDF_KEYS:
                    continue
                if free_form or str(value.get("type")) not in _PICTURE_TYPES or value.keys() - _PICTURE_KEYS:
                    pending += [
                        (one, free_form or (key in _FREE_FORM_KEYS and isinstance(one, dict)))
                        for key, one in value.items()
                        if key not in _LABEL_KEYS or not isinstance(one, str) or len(one) > MAX_LABEL_CHARS
                    ]
            case int() | float() if not isinstance(value, bool):
                yield str(value)
