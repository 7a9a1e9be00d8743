"""The counts of a request that, together with its bytes, bound its input tokens and their price."""

from typing import NamedTuple


class InputSize(NamedTuple):
    """Counts of a request. `image_bytes` are the bytes of inline images, which are not text.

    `repeated_bytes` are those of tool definitions that the provider inserts again where the input refers to them.
    `pdf_pages` is an estimate. `unbounded`: only the model's context window bounds the input. `hour_cache`: it may be
    written to a cache for an hour, which costs more.
    """

    messages: int
    images: int = 0
    image_bytes: int = 0
    tools: bool = False
    repeated_bytes: int = 0
    pdf_pages: int = 0
    unbounded: bool = False
    hour_cache: bool = False
