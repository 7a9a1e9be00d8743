"""The counts of a request that, together with its bytes, bound its input tokens."""

from typing import NamedTuple


class InputSize(NamedTuple):
    """Counts of a request. `image_bytes` are the bytes of inline images, which are not text."""

    messages: int
    images: int = 0
    image_bytes: int = 0
    tools: bool = False
