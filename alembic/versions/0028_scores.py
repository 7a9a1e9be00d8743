"""The share of a tenant's answers that its judge rates, who pays for that, and the scores per day.

Older code can serve on this schema: it samples nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TRIGGER, EVENT = "samples_raise_configuration", "AFTER UPDATE OF evaluate_share, evaluate_account ON tenants"
COUNTS = "score_counts"
SUMS = ("answers", "score_sum", "cost_tokens", "cost_micro_usd", "unpriced", "judge_tokens", "judge_micro_usd")


def upgrade() -> None:
    op.add_column("tenants", sa.Column("evaluate_share", sa.Float(), nullable=False, server_default="0"))
    op.add_column("tenants", sa.Column("evaluate_account", sa.Integer(), nullable=True))
    op.create_table(
        COUNTS,
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("model", sa.String(200), primary_key=True),
        sa.Column("judge", sa.String(200), primary_key=True),
        sa.Column("origin", sa.String(10), primary_key=True),
        sa.Column("result", sa.String(20), primary_key=True),
        *[sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS],
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER {TRIGGER} {EVENT} BEGIN UPDATE configuration SET version = version + 1; END")
        return
    op.execute(f"CREATE TRIGGER {TRIGGER} {EVENT} FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()")
    op.execute(f"ALTER TABLE {COUNTS} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY of_tenant ON {COUNTS} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.drop_table(COUNTS)
    op.execute(f"DROP TRIGGER {TRIGGER}" + ("" if is_sqlite else " ON tenants"))
    op.drop_column("tenants", "evaluate_account")
    op.drop_column("tenants", "evaluate_share")
