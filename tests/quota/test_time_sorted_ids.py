"""Ids sort by their time, and tell their month in UTC: in Python, and in the SQL of PostgreSQL."""

from datetime import UTC, datetime

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollkeeper.quota.stores.postgres.idempotency_keys import MONTH_OF
from tollkeeper.quota.time_sorted_ids import last_id, month_of, new_id

LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""
moments = st.one_of(
    st.integers(0, LAST_MS),
    st.builds(
        lambda year, month, ms: int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000 + ms,
        st.integers(1971, 9999),
        st.integers(1, 12),
        st.sampled_from([-1, 0, 1]),
    ),
)


def id_of(ms: int, prefix: str = "chg") -> str:
    return f"{prefix}_{ms:012x}{'f' * 20}"


@settings(deadline=None, derandomize=True, database=None)
@given(ms=moments, prefix=st.sampled_from(["chg", "adm", "win"]))
def test_the_month_of_an_id_is_that_of_the_calendar_in_utc(ms: int, prefix: str) -> None:
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    assert month_of(id_of(ms, prefix)) == moment.year * 100 + moment.month


def test_the_month_of_a_new_id_is_this_month() -> None:
    before = datetime.now(UTC)
    month = month_of(new_id("chg"))
    assert before.year * 100 + before.month <= month <= datetime.now(UTC).year * 100 + datetime.now(UTC).month


def test_a_later_id_is_never_in_an_earlier_month() -> None:
    """Not even after the clock was set back."""
    first = id_of(LAST_MS - 86_400_000)
    assert month_of(new_id("chg", after=first)) >= month_of(first)


@pytest.mark.parametrize("text", ["", "chg_1", "chg_" + "g" * 32, id_of(LAST_MS + 1), "chg_" + "f" * 32])
def test_what_is_no_id_has_no_month(text: str) -> None:
    with pytest.raises(ValueError):
        month_of(text)


@pytest.mark.stock_postgres
async def test_postgresql_computes_the_same_month_in_any_time_zone(any_postgres_url: str) -> None:
    boundaries = [int(datetime(2028, month, 1, tzinfo=UTC).timestamp()) * 1000 for month in range(1, 13)]
    ids = [id_of(ms + more) for ms in (*boundaries, LAST_MS) for more in (-1, 0)]
    connection = await asyncpg.connect(any_postgres_url)
    await connection.execute("SET TIME ZONE 'Asia/Kathmandu'")
    months = await connection.fetch(
        f"SELECT {MONTH_OF.format('id')} FROM unnest($1::text[]) WITH ORDINALITY AS each (id)", ids
    )
    await connection.close()
    assert [row[0] for row in months] == [month_of(each) for each in ids]


def test_the_last_id_sorts_after_all_ids_that_were_made_before() -> None:
    for _ in range(1_000):
        assert new_id("chg") < last_id("chg")
    assert month_of(last_id("chg")) == month_of(new_id("chg"))
