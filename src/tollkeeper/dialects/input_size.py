"""What bounds the input tokens of a request, beside its bytes."""

from typing import NamedTuple


class InputSize(NamedTuple):
    """Counts of a request. `image_bytes` are the bytes of pictures sent along, which are not text."""

    messages: int
    images: int = 0
    image_bytes: int = 0
    tools: bool = False
