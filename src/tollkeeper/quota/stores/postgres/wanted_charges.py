"""How statements name the charges that they look for: one array for each column of the key, as $1, $2 and $3.

Charges and entries are partitioned by month. Mostly the charges of a batch are of one month, which the text of the
statement has then as a number: so its plan has one partition. With the month as a value, PostgreSQL would lock all
partitions for each execution, and prepare to read each.
"""

from collections.abc import Iterable, Mapping, Sequence

from tollkeeper.quota.time_sorted_ids import month_of

WANTED_CHARGES = "unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, month, id)"


def charge_keys(tenants: Mapping[str, int]) -> Iterable[Sequence[object]]:
    """The keys of charges or operations (id → tenant id) in the order of the ids: tenants, months and ids."""
    ids = sorted(tenants)
    return [tenants[one] for one in ids], [month_of(one) for one in ids], ids


def only_month(months: Iterable[int]) -> int | None:
    """The month, if all are the same; else None."""
    found = set(months)
    return found.pop() if len(found) == 1 else None
