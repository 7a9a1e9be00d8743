"""Pages of lists: at most `limit` objects, and the cursor of the next page."""

from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field, WithJsonSchema

MAX_PAGE_SIZE = 100
MAX_ID = 2**31 - 1
"""The width of ids in the database."""

NO_TENANT: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such tenant, or the caller may not see it"}
}
"""The error of a request that names a tenant elsewhere than in its path."""
NO_OWNER: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such user or tenant, or the caller may not see it"}
}
"""The error of a request that names a user or a tenant elsewhere than in its path."""

Item = TypeVar("Item", bound=BaseModel)

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, examples=[50])]
_IdText = Annotated[int, Field(ge=0, le=MAX_ID), WithJsonSchema({"type": "string", "pattern": r"^1?[0-9]{1,9}$"})]
IdCursor = Annotated[_IdText | None, Query(examples=["17"])]
"""The cursor of a list that is ordered by id: the last id of the page before. The document has the type of
`next_cursor`, so that clients with types can send it back.
"""


class Page(BaseModel, Generic[Item]):
    """A page of a list. `next_cursor` is the cursor of the next page; null on the last page."""

    data: list[Item]
    next_cursor: str | None
