"""What an answer says of itself."""

from typing import NamedTuple


class Head(NamedTuple):
    """The answer's id, the model as the caller named it, and when it was made, in seconds since the epoch."""

    id: str
    model: str
    created: int
