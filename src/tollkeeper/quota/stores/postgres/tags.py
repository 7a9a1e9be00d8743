"""Reads the tags of tenants on PostgreSQL."""

from collections.abc import Mapping
from typing import Any

from tollkeeper.quota.rules.tag_rules import TagRules, tag_rules
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.policy_cache import PolicyCache
from tollkeeper.quota.stores.rows import APPLIES, OF_TAGS, QUOTA_COLUMNS, QUOTAS, quota_row

_READ_TAGS = (
    "SELECT tenant_id, name, is_required, CASE WHEN NOT any_value THEN ARRAY(SELECT value FROM tag_values"
    " WHERE tag_values.tenant_id = tag_names.tenant_id AND tag_id = tag_names.id) END"
    " FROM tag_names WHERE tenant_id = ANY($1::integer[]) AND closed_ms IS NULL"
)
_READ_QUOTAS = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS} WHERE quotas.tenant_id = ANY($1::integer[]) AND user_id IS NULL"
    f" AND {OF_TAGS} AND {APPLIES} ORDER BY quotas.id"
)


async def read_tags(
    connection: Connection, policy: PolicyCache, tenants: set[int], versions: Mapping[int, int]
) -> dict[int, TagRules]:
    """The tags of these tenants, which have some. Those that are not remembered are read."""
    found = policy.find_tags(tenants, versions)
    unknown = sorted(tenants - found.keys())
    if not unknown:
        return found
    declared: dict[int, list[Any]] = {tenant_id: [] for tenant_id in unknown}
    for tenant_id, *tag in await connection.fetch(_READ_TAGS, unknown):
        declared[tenant_id].append(tag)
    quotas = [quota_row(row) for row in await connection.fetch(_READ_QUOTAS, unknown)]
    for tenant_id in unknown:
        rules = tag_rules(declared[tenant_id], [one for one in quotas if one.key.subject.tenant_id == tenant_id])
        found[tenant_id] = rules
        if tenant_id in versions:
            policy.add_tags(tenant_id, rules, versions[tenant_id])
    return found
