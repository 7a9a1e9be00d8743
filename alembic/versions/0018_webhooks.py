"""Webhooks: where a tenant wants to be notified, and the outbox of what is to be sent there.

The end of a job puts its event in the outbox by a trigger, so that no way in which a job can end forgets it. Older code
can serve on this schema: the jobs that it ends have their events, too, and newer code sends them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("webhooks", "webhook_deliveries", "webhook_attempts")
TRIGGER = "jobs_put_webhook_events"
FUNCTION = "put_job_webhook_events"
COLUMNS = "tenant_id, webhook_id, event_id, event_type, user_id, data, created_ms, since_ms, available_ms"
PUT_EVENTS = (
    f"INSERT INTO webhook_deliveries ({COLUMNS})"
    " SELECT tenant_id, id, 'evt' || substr(NEW.id, 4), 'job.' || NEW.status, NEW.user_id, {data},"
    " NEW.completed_ms, NEW.completed_ms, NEW.completed_ms"
    " FROM webhooks WHERE tenant_id = NEW.tenant_id AND disabled_ms IS NULL AND deleted_ms IS NULL"
    " AND {position} > 0 ON CONFLICT DO NOTHING"
)
OF_COLUMN = f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF completed_ms ON jobs FOR EACH ROW"
HAS_ENDED = "WHEN (OLD.completed_ms IS NULL AND NEW.completed_ms IS NOT NULL)"


def upgrade() -> None:
    _create_tables()
    fields = "'job_id', NEW.id, 'user_id', NEW.user_id, 'status', NEW.status"
    if op.get_bind().dialect.name == "sqlite":
        put = PUT_EVENTS.format(
            data=f"json_object({fields})", position="instr(webhooks.events, ',job.' || NEW.status || ',')"
        )
        op.execute(f"{OF_COLUMN} {HAS_ENDED} BEGIN {put}; END")
        return
    put = PUT_EVENTS.format(
        data=f"json_build_object({fields})::text", position="strpos(webhooks.events, ',job.' || NEW.status || ',')"
    )
    op.execute(f"CREATE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {put}; RETURN NULL; END $$")
    op.execute(f"{OF_COLUMN} {HAS_ENDED} EXECUTE FUNCTION {FUNCTION}()")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def _create_tables() -> None:
    op.create_table(
        "webhooks",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("sealed_url", sa.LargeBinary(), nullable=False),
        sa.Column("description", sa.String(200), nullable=False),
        sa.Column("events", sa.String(2000), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_previous", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("disabled_ms", sa.BigInteger(), nullable=True),
        sa.Column("disabled_reason", sa.String(20), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failing_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("available_ms", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_ms", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("webhook_id", sa.String(40), primary_key=True),
        sa.Column("event_id", sa.String(40), primary_key=True),
        sa.Column("event_type", sa.String(40), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("status", sa.String(10), nullable=False, server_default="pending"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("available_ms", sa.BigInteger(), nullable=False),
        sa.Column("completed_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id", "webhook_id"], ["webhooks.tenant_id", "webhooks.id"]),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'dead')", name="webhook_deliveries_status"),
        sa.CheckConstraint("(completed_ms IS NULL) = (status = 'pending')", name="webhook_deliveries_completed"),
    )
    op.create_index(
        "webhook_deliveries_newest", "webhook_deliveries", ["tenant_id", "webhook_id", "created_ms", "event_id"]
    )
    op.create_index("webhook_deliveries_of_user", "webhook_deliveries", ["tenant_id", "user_id"])
    is_pending = "WHERE status = 'pending'"
    op.execute(
        "CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, webhook_id, available_ms) " + is_pending
    )
    op.execute(f"CREATE INDEX webhook_deliveries_since ON webhook_deliveries (since_ms) {is_pending}")
    op.execute("CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (completed_ms) WHERE completed_ms IS NOT NULL")
    op.create_table(
        "webhook_attempts",
        sa.Column("tenant_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("webhook_id", sa.String(40), primary_key=True),
        sa.Column("event_id", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(200), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "webhook_id", "event_id"],
            ["webhook_deliveries.tenant_id", "webhook_deliveries.webhook_id", "webhook_deliveries.event_id"],
            ondelete="CASCADE",
        ),
    )
    op.execute("CREATE INDEX jobs_open_of_user ON jobs (tenant_id, user_id) WHERE completed_ms IS NULL")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(f"DROP TRIGGER {TRIGGER}" + ("" if is_sqlite else " ON jobs"))
    if not is_sqlite:
        op.execute(f"DROP FUNCTION {FUNCTION}()")
    op.drop_index("jobs_open_of_user", "jobs")
    for table in reversed(TABLES):
        op.drop_table(table)
