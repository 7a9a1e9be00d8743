"""What tenants do not want said: their moderation policies, and how much each rule has found per day.

Older code can serve on this schema: it moderates nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
POLICIES, COUNTS = "moderation_policies", "moderation_counts"


def upgrade() -> None:
    op.create_table(
        POLICIES,
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        COUNTS,
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("rule", sa.String(40), primary_key=True),
        sa.Column("stage", sa.String(10), primary_key=True),
        sa.Column("action", sa.String(10), primary_key=True),
        sa.Column("enforced", sa.Boolean(), primary_key=True),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for change in ("insert", "update", "delete"):
            op.execute(
                f"CREATE TRIGGER {POLICIES}_{change}_raises_configuration AFTER {change} ON {POLICIES}"
                " BEGIN UPDATE configuration SET version = version + 1; END"
            )
        return
    op.execute(
        f"CREATE TRIGGER {POLICIES}_raises_configuration AFTER INSERT OR UPDATE OR DELETE ON {POLICIES}"
        " FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()"
    )
    for table in (POLICIES, COUNTS):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    op.drop_table(COUNTS)
    op.drop_table(POLICIES)
