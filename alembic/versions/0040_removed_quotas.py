"""Quotas that are removed: their rows stay, with their windows and entries, and a new quota of the same owner, unit and
window is another row.

The audit reads the removed ones, too, by indexes of all quotas.

Older code cannot serve on this schema: it would apply quotas that are removed.
"""

import sqlalchemy as sa

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

OWNERS = {
    "quotas_of_user": ("quotas_by_user", "user_id", "user_id IS NOT NULL"),
    "quotas_of_tenant": ("quotas_by_tenant", "tenant_id", "user_id IS NULL"),
}
"""The unique indexes, with those of all quotas, the owner, and whose they are."""


def upgrade() -> None:
    op.add_column("quotas", sa.Column("removed_ms", sa.BigInteger(), nullable=True))
    replace_indexes(" AND removed_ms IS NULL")
    for name, owner, condition in OWNERS.values():
        create_index(name, [owner], condition, unique=False)
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a removed quota, which older code would apply."""
    removed = "SELECT count(*) FROM quotas WHERE removed_ms IS NOT NULL"
    if op.get_bind().execute(sa.text(removed)).scalar_one():
        raise RuntimeError("There are removed quotas, which older code does not know.")
    for name, _, _ in OWNERS.values():
        op.drop_index(name, "quotas")
    replace_indexes("")
    op.drop_column("quotas", "removed_ms")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0039'")


def replace_indexes(applies: str) -> None:
    for name, (_, owner, condition) in OWNERS.items():
        op.drop_index(name, "quotas")
        create_index(name, [owner, "kind", "subject", "unit", "period"], condition + applies, unique=True)


def create_index(name: str, columns: list[str], condition: str, *, unique: bool) -> None:
    where = sa.text(condition)
    op.create_index(name, "quotas", columns, unique=unique, sqlite_where=where, postgresql_where=where)
