"""What calls asked and were answered, encrypted, for tenants that have turned this on for themselves.

Older code can serve on this schema: it stores no contents.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TRIGGER = "tenants_raises_configuration"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("content_logging", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("tenants", sa.Column("content_days", sa.Integer(), nullable=True))
    op.create_table(
        "call_contents",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("charge_id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("surface", sa.String(40), nullable=False),
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("sealed_content", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("call_contents_of_user", "call_contents", ["tenant_id", "user_id", "charge_id"])
    of_columns = "AFTER UPDATE OF content_logging, content_days ON tenants"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER {TRIGGER} {of_columns} BEGIN UPDATE configuration SET version = version + 1; END"
        )
        return
    op.execute(
        f"CREATE TRIGGER {TRIGGER} {of_columns} FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()"
    )
    op.execute("ALTER TABLE call_contents ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY of_tenant ON call_contents USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    on_table = "" if op.get_bind().dialect.name == "sqlite" else " ON tenants"
    op.execute(f"DROP TRIGGER {TRIGGER}{on_table}")
    op.drop_table("call_contents")
    op.drop_column("tenants", "content_days")
    op.drop_column("tenants", "content_logging")
