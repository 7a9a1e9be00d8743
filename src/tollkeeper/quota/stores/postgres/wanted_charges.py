"""How statements name the charges that they look for: one array for each column of the key, as $1, $2 and $3."""

from collections.abc import Iterable, Mapping, Sequence

from tollkeeper.quota.time_sorted_ids import month_of

WANTED_CHARGES = "unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, month, id)"


def charge_keys(tenants: Mapping[str, int]) -> Iterable[Sequence[object]]:
    """The keys of charges or operations (id → tenant id) in the order of the ids: tenants, months and ids."""
    ids = sorted(tenants)
    return [tenants[one] for one in ids], [month_of(one) for one in ids], ids
