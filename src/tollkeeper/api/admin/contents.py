"""The contents of calls, for the administrators of a tenant that has turned content logging on."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from tollkeeper.administration import contents
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.me import EXAMPLE_ID
from tollkeeper.contents.models import StoredContent

router = APIRouter(prefix="/admin/contents", tags=["admin"])

ChargeId = Annotated[str, Path(max_length=40, pattern=r"^[!-~]+$", examples=[EXAMPLE_ID])]
Cursor = Annotated[str | None, Query(max_length=40, pattern="^chg_[0-9a-f]+$", examples=[EXAMPLE_ID])]
OfUser = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[17])]


class ContentSummary(BaseModel):
    """A call whose content is stored."""

    charge_id: str
    user_id: int
    surface: str
    provider: str
    model: str
    created_at: Moment


class ContentPart(BaseModel):
    """A part of a message or an answer. Of a picture, nothing is stored but that there was one."""

    type: Literal["text", "reasoning", "tool_call", "tool_result", "image"]
    text: str | None = None
    name: str | None = None


class ContentMessage(BaseModel):
    """A message of the input."""

    role: str
    content: list[ContentPart]


class ContentAnswer(BaseModel):
    """What the model answered."""

    content: list[ContentPart]
    finish_reason: str | None


class ContentResponse(ContentSummary):
    """The content of a call. `answer` is null, and `error` a code, if the call failed. `truncated`: it was too long to
    be stored as a whole.
    """

    messages: list[ContentMessage]
    answer: ContentAnswer | None
    error: str | None
    truncated: bool


@router.get("", summary="The calls of your tenant whose contents are stored, the newest first")
async def list_contents(
    caller: TenantAdmin, user_id: OfUser = None, limit: Limit = 20, cursor: Cursor = None
) -> Page[ContentSummary]:
    """Without the contents. Operators, too, see those of their own tenant only."""
    found = await contents.list_contents(caller.admin, user_id=user_id, before=cursor, limit=limit + 1)
    page = [_summary(one) for one in found[:limit]]
    return Page(data=page, next_cursor=page[-1].charge_id if len(found) > limit else None)


@router.get("/{charge_id}", summary="The content of one call")
async def read_content(charge_id: ChargeId, caller: TenantAdmin) -> ContentResponse:
    """Each read is noted in the audit log of your tenant."""
    stored, content = await contents.read_content(caller.admin, caller.services.data_keys, charge_id)
    return ContentResponse.model_validate(_summary(stored).model_dump() | content)


def _summary(stored: StoredContent) -> ContentSummary:
    return ContentSummary(
        charge_id=stored.charge_id,
        user_id=stored.user_id,
        surface=stored.surface,
        provider=stored.provider,
        model=stored.model,
        created_at=iso(stored.created_ms),
    )
