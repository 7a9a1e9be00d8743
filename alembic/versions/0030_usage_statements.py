"""The statements of closed months. They never change: no right to do so is given, and nothing does.

Older code can serve on this schema: it closes no month.
"""

import sqlalchemy as sa

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"


def upgrade() -> None:
    op.create_table(
        "usage_statements",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("month", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    if op.get_bind().dialect.name != "sqlite":
        op.execute("ALTER TABLE usage_statements ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON usage_statements USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    op.drop_table("usage_statements")
