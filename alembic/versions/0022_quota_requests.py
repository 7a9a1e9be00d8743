"""Requests of users for more quota, and what administrators decided.

Older code can serve on this schema: it does not know the new table. Erasing a user needs the new code.
"""

import sqlalchemy as sa

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
PENDING = sa.text("status = 'pending'")


def upgrade() -> None:
    op.create_table(
        "quota_requests",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("granted_tokens", sa.BigInteger(), nullable=True),
        sa.Column("operation_id", sa.String(60), nullable=True),
        sa.Column("decided_by", sa.String(254), nullable=True),
        sa.Column("decision_reason", sa.String(500), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("status IN ('pending', 'granted', 'declined')", name="quota_requests_status"),
        sa.CheckConstraint("(decided_ms IS NULL) = (status = 'pending')", name="quota_requests_decided"),
    )
    op.create_index("quota_requests_of_user", "quota_requests", ["tenant_id", "user_id", "id"])
    op.create_index(
        "quota_requests_pending",
        "quota_requests",
        ["tenant_id", "user_id", "period"],
        unique=True,
        sqlite_where=PENDING,
        postgresql_where=PENDING,
    )
    op.create_index("quota_requests_by_status", "quota_requests", ["tenant_id", "status", "id"])
    if op.get_bind().dialect.name != "sqlite":
        op.execute("ALTER TABLE quota_requests ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON quota_requests USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    op.drop_table("quota_requests")
