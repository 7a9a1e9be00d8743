"""Grants with an expiry, and overrides of limits that hold for a time.

Older code cannot serve on this schema: it would never take back what is over.
"""

import sqlalchemy as sa

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"


def upgrade() -> None:
    op.create_table(
        "temporary_limits",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("quota_id", sa.Integer(), sa.ForeignKey("quotas.id"), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.String(60), nullable=False),
        sa.CheckConstraint("amount >= 0", name="temporary_limits_amount"),
    )
    op.create_index("temporary_limits_of_quota", "temporary_limits", ["quota_id", "ends_ms"])
    op.add_column("quotas", sa.Column("overrides_end_ms", sa.BigInteger(), nullable=True))
    for name in ("override", "due_ms"):
        op.add_column("windows", sa.Column(name, sa.BigInteger(), nullable=True))
    if op.get_bind().dialect.name != "sqlite":
        op.execute("ALTER TABLE temporary_limits ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON temporary_limits USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    for name in ("due_ms", "override"):
        op.drop_column("windows", name)
    op.drop_column("quotas", "overrides_end_ms")
    op.drop_table("temporary_limits")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0033'")
