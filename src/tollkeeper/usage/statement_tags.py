"""What a tenant spent in a month by tag. A call with several tags counts for each of them: there is no sum of all."""

from typing import Any

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.tags import split_tag
from tollkeeper.usage.buckets import DAY_MS, MEASURES, NOTHING, Sums, add, tags_of
from tollkeeper.usage.statement_parts import TagKey, TagSums

MAX_LINES = 1_000
"""Values with a line of their own: those that cost most. Of each tag, the others are one line."""
_SUMS = ", ".join(f"CAST(sum({name}) AS bigint)" for name in MEASURES)
_OF_DAYS = text(
    f"SELECT value, {_SUMS} FROM usage_days WHERE tenant_id = :tenant_id AND dimension = 'tag' AND value <> ''"
    " AND day_ms >= :first AND day_ms < :after GROUP BY 1"
)
_OF_BUCKETS = text(
    f"SELECT tags, {_SUMS} FROM usage_buckets WHERE tenant_id = :tenant_id AND tags <> ''"
    " AND bucket_ms >= :first AND bucket_ms < :after GROUP BY 1"
)


async def read_tags(session: AsyncSession, tenant_id: int, starts_ms: int, ends_ms: int) -> TagSums:
    """What was spent by tag in a time, which begins and ends with a bucket."""
    first_day, day_after = starts_ms + -starts_ms % DAY_MS, ends_ms - ends_ms % DAY_MS
    found: dict[str, Sums] = {}
    ends = [(starts_ms, first_day), (day_after, ends_ms)] if first_day < day_after else [(starts_ms, ends_ms)]
    if first_day < day_after:
        found.update(await _read(session, _OF_DAYS, tenant_id, first_day, day_after))
    for first, after in ends:
        if first < after:
            for tags, sums in await _read(session, _OF_BUCKETS, tenant_id, first, after):
                for tag in tags_of(tags):
                    found[tag] = add(found.get(tag, NOTHING), sums)
    return _shortened({tag: sums for tag, sums in found.items() if any(sums)})


def _shortened(found: dict[str, Sums]) -> TagSums:
    cost = MEASURES.index("cost_tokens")
    lines: TagSums = {}
    for place, tag in enumerate(sorted(found, key=lambda tag: (-found[tag][cost], tag))):
        name, value = split_tag(tag)
        key = TagKey(name, value if place < MAX_LINES else None)
        lines[key] = add(lines.get(key, NOTHING), found[tag])
    return lines


async def _read(
    session: AsyncSession, statement: Any, tenant_id: int, first: int, after: int
) -> list[tuple[str, Sums]]:
    connection = await session.connection()
    rows = await connection.execute(statement, {"tenant_id": tenant_id, "first": first, "after": after})
    return [(value, tuple(sums)) for value, *sums in rows]
