"""The reason of an act, as every request that needs one has it."""

from typing import Annotated

from fastapi import Query
from msgspec import Meta

MAX_REASON_LENGTH = 500

_LINE = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\xa0][^\x00-\x1f\x7f-\x9f]*$"
Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON_LENGTH, pattern=_LINE)]
"""One line that is not blank."""
ReasonInQuery = Annotated[
    str, Query(min_length=1, max_length=MAX_REASON_LENGTH, pattern=_LINE, examples=["The project has ended"])
]
"""The same, of a request without a body."""
