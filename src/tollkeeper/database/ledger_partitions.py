"""The partitions of charges and entries on PostgreSQL: one for each month, made before the month begins.

Rows of a month that has none go to the default partition, so a missing partition refuses no call. They are moved when
the month gets its own.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

LOCK_TIMEOUT_MS = 250
"""To attach a partition takes locks that writers wait for. A batch waits longer than this before it gives up."""
_OF_DEFAULT = "SELECT month FROM charges_default UNION SELECT month FROM entries_default"
_MONTHS_OF_DEFAULT = text(f"{_OF_DEFAULT} ORDER BY month")
_MONTHS = text(
    f"{_OF_DEFAULT} UNION"
    " SELECT month FROM (SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::integer AS this) AS now,"
    " LATERAL (VALUES (this), (month_after(this))) AS wanted (month) ORDER BY month"
)
_PARTITIONS = text("SELECT name, first_month, month_after FROM ledger_partitions WHERE parent = :parent ORDER BY 2")
_LOCK_OUT_OTHERS = text("SELECT pg_advisory_xact_lock(hashtext('tollkeeper'), hashtext('add_ledger_partition'))")
_NAME = "SELECT to_regprocedure('add_ledger_partition(integer, bigint)') IS NOT NULL"


class Partition(NamedTuple):
    """The months that a partition has; `month_after` is the first that it does not have.

    `first_month` is 0 if it has all earlier ones, too. Both are None for the default partition.
    """

    name: str
    first_month: int
    month_after: int | None


def are_used(connection: Connection) -> bool:
    """Whether the ledger is partitioned: neither on SQLite, nor on an older schema."""
    return connection.dialect.name == "postgresql" and bool(connection.execute(text(_NAME)).scalar_one())


def add_missing(connection: Connection, *, most_moved: int) -> None:
    """Make the partitions of this month and the next, and of each month in the default partition.

    One session at a time does so: two would have read the default partitions, and each would wait for the other to lock
    them alone. Raises DBAPIError if not all locks are had in time, or if the default partition has more than
    `most_moved` rows of a month: they are locked while they are moved.
    """
    connection.execute(_LOCK_OUT_OTHERS)
    for (month,) in connection.execute(_MONTHS).all():
        add = "SELECT add_ledger_partition(:month, :most_moved)"
        connection.execute(text(add), {"month": month, "most_moved": most_moved})


def limit_lock_waits(connection: Connection) -> None:
    """For the present transaction, beside a server at work."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


def find(connection: Connection, parent: str) -> list[Partition]:
    """The partitions of a table, the oldest first."""
    return [Partition(*row) for row in connection.execute(_PARTITIONS, {"parent": parent})]


def months_of_default(connection: Connection) -> list[int]:
    """The months of the rows in the default partition, the oldest first."""
    return [month for (month,) in connection.execute(_MONTHS_OF_DEFAULT)]
