"""Files, and batches of calls, whose lines are jobs.

Older code can serve on this schema: it does not know the new tables, and a line of a batch is a job that it cannot
start, because no charge of it exists.
"""

import sqlalchemy as sa

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("files", "file_chunks", "batches")
TRIGGER = "jobs_put_webhook_events"
HAS_ENDED = "OLD.completed_ms IS NULL AND NEW.completed_ms IS NOT NULL"
"""When 0018's trigger puts the event of a job in the outbox. The line of a batch has none."""


def upgrade() -> None:
    _create_files()
    _create_batches()
    op.add_column("jobs", sa.Column("batch_id", sa.String(50), nullable=True))
    op.execute("CREATE INDEX jobs_of_batch ON jobs (tenant_id, batch_id, status) WHERE batch_id IS NOT NULL")
    _replace_trigger(f"{HAS_ENDED})", f"{HAS_ENDED} AND NEW.batch_id IS NULL)")
    if op.get_bind().dialect.name != "sqlite":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def _replace_trigger(condition: str, replacement: str) -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
        statement = connection.execute(query, {"name": TRIGGER}).scalar_one()
        assert condition in statement
        op.execute(f"DROP TRIGGER {TRIGGER}")
        connection.exec_driver_sql(statement.replace(condition, replacement))
        return
    op.execute(f"DROP TRIGGER {TRIGGER} ON jobs")
    op.execute(
        f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF completed_ms ON jobs FOR EACH ROW WHEN ({replacement}"
        " EXECUTE FUNCTION put_job_webhook_events()"
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(50), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("purpose", sa.String(30), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("status IN ('uploading', 'writing', 'ready', 'deleted')", name="files_status"),
        sa.CheckConstraint("bytes >= 0", name="files_bytes"),
    )
    op.create_index("files_of_user", "files", ["tenant_id", "user_id", "id"])
    op.create_index("files_by_end", "files", ["expires_ms"])
    op.create_table(
        "file_chunks",
        sa.Column("tenant_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("file_id", sa.String(50), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id", "file_id"], ["files.tenant_id", "files.id"], ondelete="CASCADE"),
    )


def _create_batches() -> None:
    times = ("created_ms", "deadline_ms", "available_ms")
    op.create_table(
        "batches",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(50), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("input_file_id", sa.String(50), nullable=False),
        sa.Column("output_file_id", sa.String(50), nullable=True),
        sa.Column("error_file_id", sa.String(50), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("total", "completed", "failed", "unmade")),
        sa.Column("next_line", sa.Integer(), nullable=False),
        sa.Column("next_byte", sa.BigInteger(), nullable=False),
        sa.Column("api_key", sa.String(40), nullable=True),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("traceparent", sa.String(60), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("options", sa.LargeBinary(), nullable=False),
        sa.Column("errors", sa.LargeBinary(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in times),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ("started_ms", "cancel_ms", "ended_ms")),
        sa.CheckConstraint(
            "status IN ('validating', 'in_progress', 'cancelling', 'completed', 'failed', 'expired', 'cancelled')",
            name="batches_status",
        ),
        sa.CheckConstraint(
            "(ended_ms IS NULL) = (status IN ('validating', 'in_progress', 'cancelling'))", name="batches_ended"
        ),
    )
    op.create_index("batches_of_user", "batches", ["tenant_id", "user_id", "id"])
    op.create_index("batches_of_key", "batches", ["tenant_id", "user_id", "idempotency_key"], unique=True)
    op.create_index("batches_of_file", "batches", ["tenant_id", "input_file_id"])
    op.execute("CREATE INDEX batches_open ON batches (available_ms) WHERE ended_ms IS NULL")
    op.execute("CREATE INDEX batches_by_end ON batches (ended_ms) WHERE ended_ms IS NOT NULL")


def downgrade() -> None:
    _replace_trigger(f"{HAS_ENDED} AND NEW.batch_id IS NULL)", f"{HAS_ENDED})")
    op.execute("DELETE FROM jobs WHERE batch_id IS NOT NULL")
    op.drop_index("jobs_of_batch", "jobs")
    op.drop_column("jobs", "batch_id")
    op.drop_table("batches")
    op.drop_table("file_chunks")
    op.drop_table("files")
