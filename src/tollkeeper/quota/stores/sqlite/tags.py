"""Reads the tags of tenants on SQLite."""

import sqlite3

from tollkeeper.quota.rules.tag_rules import TagRules, tag_rules
from tollkeeper.quota.stores.rows import APPLIES, OF_TAGS, QUOTA_COLUMNS, quota_row
from tollkeeper.quota.stores.sqlite.quotas import QUOTAS_OF_TENANTS

_READ_TAGS = (
    "SELECT name, is_required, NOT any_value, value FROM tag_names LEFT JOIN tag_values"
    " ON tag_values.tenant_id = tag_names.tenant_id AND tag_id = tag_names.id AND NOT any_value"
    " WHERE tag_names.tenant_id = ? AND closed_ms IS NULL"
)
_READ_QUOTAS = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS_OF_TENANTS}"
    f" WHERE quotas.tenant_id = ? AND user_id IS NULL AND {OF_TAGS} AND {APPLIES} ORDER BY quotas.id"
)


def read_tags(connection: sqlite3.Connection, tenant_id: int) -> TagRules:
    """The tags of a tenant."""
    values: dict[tuple[str, bool], list[str] | None] = {}
    for name, is_required, is_limited, value in connection.execute(_READ_TAGS, (tenant_id,)):
        allowed = values.setdefault((name, bool(is_required)), [] if is_limited else None)
        if allowed is not None and value is not None:
            allowed.append(value)
    quotas = map(quota_row, connection.execute(_READ_QUOTAS, (tenant_id,)).fetchall())
    return tag_rules([(*tag, allowed) for tag, allowed in values.items()], quotas)
