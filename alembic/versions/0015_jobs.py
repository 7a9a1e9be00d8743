"""Background jobs.

Older code can serve on this schema: it does not know the new table.
"""

import sqlalchemy as sa

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("charge_id", sa.String(40), nullable=True),
        sa.Column("api_key", sa.String(40), nullable=True),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("traceparent", sa.String(60), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.LargeBinary(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("available_ms", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("cancel_ms", sa.BigInteger(), nullable=True),
        sa.Column("completed_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status IN ('new', 'pending', 'processing', 'completed', 'failed', 'cancelled')", name="jobs_status"
        ),
        sa.CheckConstraint(
            "(completed_ms IS NULL) = (status IN ('new', 'pending', 'processing'))", name="jobs_completed"
        ),
    )
    op.create_index("jobs_of_user", "jobs", ["tenant_id", "user_id", "id"])
    op.create_index("jobs_of_key", "jobs", ["tenant_id", "user_id", "idempotency_key"], unique=True)
    op.execute("CREATE INDEX jobs_pending ON jobs (tenant_id, priority DESC, id) WHERE status = 'pending'")
    op.execute("CREATE INDEX jobs_open ON jobs (status, created_ms) WHERE completed_ms IS NULL")
    op.execute("CREATE INDEX jobs_ended ON jobs (completed_ms) WHERE completed_ms IS NOT NULL")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON jobs USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    op.drop_table("jobs")
