"""Times in administrative requests: ISO 8601 with an offset."""

from datetime import datetime
from typing import Annotated, overload

from msgspec import Meta

from tollkeeper import moments

Time = Annotated[datetime, Meta(tz=True)]
"""A time of ISO 8601 with its offset, such as `2038-01-15T00:00:00+01:00`."""


@overload
def epoch_ms(moment: datetime) -> int: ...
@overload
def epoch_ms(moment: None) -> None: ...
@overload
def epoch_ms(moment: datetime | None) -> int | None: ...
def epoch_ms(moment: datetime | None) -> int | None:
    """Milliseconds since the epoch; None for None. Raises InvalidRequest for a year that is out of range."""
    return None if moment is None else moments.epoch_ms(moment)
