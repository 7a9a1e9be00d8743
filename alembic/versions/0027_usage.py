"""What was spent: sums of charges per 15 minutes and per day, and which 15 minutes are to be added up anew.

Each change of a closed charge is noted in its transaction: on SQLite by a trigger, on PostgreSQL by the ledger's own
statement. All charges there are have a note after this, so that the server adds them up. Older code cannot serve on
this schema: on PostgreSQL it writes no notes.
"""

from collections.abc import Callable

import sqlalchemy as sa

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("usage_changes", "usage_buckets", "usage_days")
BUCKET_MS = 900_000
BUCKET = {
    "sqlite": "usage_bucket(id)",
    "postgresql": f"('x' || left(right(id, 32), 12))::bit(48)::bigint / {BUCKET_MS}",
}
TRIGGER = (
    "CREATE TRIGGER charges_note_usage_change AFTER UPDATE ON charges WHEN NEW.closed_ms IS NOT NULL"
    " BEGIN INSERT INTO usage_changes (tenant_id, charge_id) VALUES (NEW.tenant_id, NEW.id); END"
)
MEASURES = (
    "calls",
    "cached_calls",
    "failed_calls",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_tokens",
    "cost_micro_usd",
    "refunded_tokens",
    "refunded_micro_usd",
    "forgiven_tokens",
    "forgiven_micro_usd",
)


def upgrade() -> None:
    create_tables()
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        connection = op.get_bind().connection.dbapi_connection
        assert connection is not None
        create_function: Callable[..., None] = connection.create_function
        create_function("usage_bucket", 1, lambda id: int(id[-32:-20], 16) // BUCKET_MS, deterministic=True)
        op.execute(TRIGGER)
    else:
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
    op.get_bind().exec_driver_sql(
        "INSERT INTO usage_changes (tenant_id, charge_id) SELECT tenant_id, min(id) FROM charges"
        f" WHERE closed_ms IS NOT NULL GROUP BY tenant_id, {BUCKET[dialect]}"
    )
    op.execute("INSERT INTO usage_rollup_state (id, revision, rolled_ms) VALUES (1, 0, 0)")
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER charges_note_usage_change")
    for table in ("usage_rollup_state", *TABLES):
        op.drop_table(table)
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0020'")


def create_tables() -> None:
    op.create_table(
        "usage_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), nullable=False),
        sa.Column("charge_id", sa.String(40), nullable=False),
    )
    op.create_table(
        "usage_buckets",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("bucket_ms", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("surface", sa.String(20), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        *measures(),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_buckets_of_user", "usage_buckets", ["tenant_id", "user_id", "bucket_ms"])
    op.create_table(
        "usage_days",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
        sa.Column("dimension", sa.String(10), primary_key=True),
        sa.Column("day_ms", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.String(400), primary_key=True),
        sa.Column("provider", sa.String(40), primary_key=True),
        sa.Column("group_id", sa.Integer(), primary_key=True, autoincrement=False),
        *measures(),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_rollup_state",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("rolled_ms", sa.BigInteger(), nullable=False),
    )


def measures() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in MEASURES]
