"""The reason of an act, as every request that needs one has it."""

from typing import Annotated

from msgspec import Meta

MAX_REASON_LENGTH = 500

Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_REASON_LENGTH,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\xa0][^\x00-\x1f\x7f-\x9f]*$",
    ),
]
"""One line that is not blank."""
