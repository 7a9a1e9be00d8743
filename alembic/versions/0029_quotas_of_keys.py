"""Quotas of other subjects than users and tenants: of API keys.

A quota of an API key has the user of the key as its user. Older code cannot serve on this schema: it would take such a
quota for the user's own.
"""

import sqlalchemy as sa

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

OWNERS = {"quotas_of_user": ("user_id", "user_id IS NOT NULL"), "quotas_of_tenant": ("tenant_id", "user_id IS NULL")}
UNKNOWN_BEFORE = "SELECT count(*) FROM quotas WHERE kind NOT IN ('user', 'tenant')"


def upgrade() -> None:
    op.add_column("quotas", sa.Column("kind", sa.String(10), nullable=False, server_default="tenant"))
    op.add_column("quotas", sa.Column("subject", sa.String(120), nullable=False, server_default=""))
    op.execute("UPDATE quotas SET kind = 'user' WHERE user_id IS NOT NULL")
    replace_indexes(["kind", "subject"])
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a quota that older code does not know."""
    if op.get_bind().execute(sa.text(UNKNOWN_BEFORE)).scalar_one():
        raise RuntimeError("There are quotas of API keys, which older code does not know.")
    replace_indexes([])
    op.drop_column("quotas", "subject")
    op.drop_column("quotas", "kind")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0027'")


def replace_indexes(columns: list[str]) -> None:
    for name, (owner, condition) in OWNERS.items():
        op.drop_index(name, "quotas")
        is_owned = sa.text(condition)
        op.create_index(
            name,
            "quotas",
            [owner, *columns, "unit", "period"],
            unique=True,
            sqlite_where=is_owned,
            postgresql_where=is_owned,
        )
