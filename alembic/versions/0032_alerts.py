"""Alerts on quotas: rules that say at which shares they fire, and those that have fired.

Older code can serve on this schema: it fires none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
RULES, ALERTS = "alert_rules", "quota_alerts"


def upgrade() -> None:
    op.create_table(
        RULES,
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("percents", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(10), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("unit", sa.String(12), nullable=True),
        sa.Column("period", sa.String(10), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        ALERTS,
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("window_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("percent", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("quota_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("unit", sa.String(12), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("granted", "settled", "starts_ms")),
        sa.Column("ends_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        return
    for table in (RULES, ALERTS):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    op.drop_table(ALERTS)
    op.drop_table(RULES)
