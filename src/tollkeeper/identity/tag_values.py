"""The values of tags. Calls bring new ones where any value is allowed, up to a number that the tag has."""

from typing import Any, cast

from sqlalchemy import CursorResult, text
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import TagRefused
from tollkeeper.identity.tag_models import TagName, TagValue
from tollkeeper.principal import Principal
from tollkeeper.tags import NO_TAGS, split_tag
from tollkeeper.tenant_scope import TenantScope

MAX_REMEMBERED = 50_000
"""Values that a process remembers as known. With more, it forgets all."""

_ADD = text(
    "INSERT INTO tag_values (tenant_id, tag_id, value, created_ms, user_id, user_number)"
    " VALUES (:tenant_id, :tag_id, :value, :now_ms, :user_id, 0) ON CONFLICT DO NOTHING"
)
_NUMBER = text(
    "UPDATE tag_values SET user_number = 1 + (SELECT coalesce(max(user_number), 0) FROM tag_values AS mine"
    " WHERE mine.tenant_id = :tenant_id AND mine.tag_id = :tag_id AND mine.user_id = :user_id)"
    " WHERE tenant_id = :tenant_id AND tag_id = :tag_id AND value = :value RETURNING user_number"
)


class TagValues:
    """Notes the values that calls bring. A value stays for good: no caller gets ever new ones by varying them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: set[tuple[int, str]] = set()

    async def admit(self, caller: Principal) -> None:
        """Note the values of the caller's tags that are new. Raises TagRefused for a tag that is not declared, a value
        that is not allowed, and one for which there is no room; DatabaseUnavailable.
        """
        tenant_id = caller.tenant_id
        unknown = [tag for tag in caller.tags or NO_TAGS if (tenant_id, tag) not in self._known]
        if not unknown:
            return
        async with self._database.session(TenantScope(tenant_id)) as session:
            for tag in unknown:
                await note_value(session, tenant_id, tag, self._clock.now_ms(), caller.user_id)
        if len(self._known) > MAX_REMEMBERED:
            self._known.clear()
        self._known.update((tenant_id, tag) for tag in unknown)


async def note_value(session: AsyncSession, tenant_id: int, tag: str, now_ms: int, user_id: int | None = None) -> None:
    """Have the value of a tag known. Raises TagRefused if there is no room.

    A value that a call brings is one of its user's. A user who has brought as many as there are places left brings no
    more: so one alone takes about half of the places, and leaves the rest to others.
    """
    declared = await find_new(session, tenant_id, tag)
    if declared is None:
        return
    connection = await session.connection()
    row: dict[str, Any] = {"tenant_id": tenant_id, "tag_id": declared.id, "value": split_tag(tag)[1]}
    added = cast("CursorResult[Any]", await connection.execute(_ADD, row | {"now_ms": now_ms, "user_id": user_id}))
    if added.rowcount == 0:  # another request has noted it at this moment
        return
    has_room = col(TagName.known_values) < TagName.max_values
    counted = update(TagName).where(col(TagName.id) == declared.id, has_room)
    counted = counted.values(known_values=TagName.known_values + 1)
    places = col(TagName.max_values) - col(TagName.known_values)
    left = (await session.exec(counted.returning(places))).scalar_one_or_none()
    if left is None:
        raise _no_room(declared)
    if user_id is not None:  # the row of the tag is locked: two calls of one user have different numbers
        number = (await connection.execute(_NUMBER, row | {"user_id": user_id})).scalar_one()
        if number > left + 2:
            raise _too_many(declared, number - 1)


async def find_new(session: AsyncSession, tenant_id: int, tag: str) -> TagName | None:
    """The declaration of a tag, as `name=value`, if the value is new and it may have it; None if the value is known.

    Raises TagRefused for a tag that is not declared, and a value that it may not have.
    """
    name, value = split_tag(tag)
    is_it = TagName.tenant_id == tenant_id, TagName.name == name, col(TagName.closed_ms).is_(None)
    declared = (await session.exec(select(TagName).where(*is_it))).first()
    if declared is None or declared.id is None:
        raise TagRefused(f"Your tenant has not declared the tag {name}. An administrator declares it: /admin/tags.")
    if await session.get(TagValue, (tenant_id, declared.id, value)) is not None:
        return None
    if not declared.any_value:
        raise TagRefused(f"The tag {name} may not have the value {value}. An administrator can add it: /admin/tags.")
    if declared.known_values >= declared.max_values:
        raise _no_room(declared)
    return declared


def _too_many(tag: TagName, number: int) -> TagRefused:
    return TagRefused(
        f"You have brought {number} values of the tag {tag.name}, as many as there are places left. The others are kept"
        " for other users. Use one of yours, or have an administrator raise max_values."
    )


def _no_room(tag: TagName) -> TagRefused:
    return TagRefused(
        f"The tag {tag.name} has {tag.max_values} values, all that it may have. Use one of them, or have an"
        " administrator raise max_values."
    )
