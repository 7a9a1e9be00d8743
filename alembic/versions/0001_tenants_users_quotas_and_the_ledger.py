"""Tenants, users, quotas and the ledger."""

import sqlalchemy as sa
import sqlmodel

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sqlmodel.sql.sqltypes.UTCDateTime
POLICY_TABLES = ("tenants", "users", "quotas")


def amount(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, server_default=None if nullable else "0")


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("disabled_at", Time(), nullable=True),
        sa.Column("created_at", Time(), nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False, index=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("token_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("disabled_at", Time(), nullable=True),
        sa.Column("created_at", Time(), nullable=False),
        sa.CheckConstraint("role IN ('member', 'tenant_admin', 'operator')", name="users_role"),
    )
    op.create_table(
        "quotas",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=True),
        sa.Column("unit", sa.String(10), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("unit IN ('tokens', 'micro_usd')", name="quotas_unit"),
        sa.CheckConstraint("period IN ('minute', 'hour', 'day', 'month', 'total')", name="quotas_period"),
        sa.CheckConstraint("granted >= 0", name="quotas_granted"),
    )
    own, shared = sa.text("user_id IS NOT NULL"), sa.text("user_id IS NULL")
    op.create_index(
        "quotas_of_user", "quotas", ["user_id", "unit", "period"], unique=True, sqlite_where=own, postgresql_where=own
    )
    op.create_index(
        "quotas_of_tenant",
        "quotas",
        ["tenant_id", "unit", "period"],
        unique=True,
        sqlite_where=shared,
        postgresql_where=shared,
    )
    op.create_table(
        "windows",
        sa.Column("id", Id, primary_key=True),
        sa.Column("quota_id", sa.Integer(), sa.ForeignKey("quotas.id"), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=True),
        *(amount(name) for name in ("granted", "settled", "pending", "forgiven", "sequence")),
        sa.UniqueConstraint("quota_id", "starts_ms", name="windows_of_quota"),
        sa.CheckConstraint("pending >= 0 AND forgiven >= 0 AND granted >= 0", name="windows_balances"),
    )
    create_charges()
    op.create_table(
        "entries",
        sa.Column("window_id", sa.BigInteger(), sa.ForeignKey("windows.id"), primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("source_id", sa.String(60), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        *(amount(name) for name in ("granted", "settled", "pending", "forgiven")),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(254), nullable=True),
        sa.Column("reason", sa.String(500), nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("entries_of_source", "entries", ["source_id", "kind", "window_id"], unique=True)
    op.create_table("policy", sa.Column("version", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO policy (version) VALUES (1)")
    create_triggers()


def create_charges() -> None:
    op.create_table(
        "charges",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("surface", sa.String(20), nullable=False),
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("basis", sa.String(10), nullable=True),
        sa.Column("closed_by", sa.String(10), nullable=True),
        sa.Column("weight_milli", sa.Integer(), nullable=False),
        *(amount(name, nullable=True) for name in ("price_input", "price_cached", "price_output")),
        *(amount(name) for name in ("input_bound", "granted_output", "held_tokens")),
        amount("held_micro_usd", nullable=True),
        *(amount(name) for name in ("checkpoint_input", "checkpoint_output")),
        *(
            amount(name, nullable=True)
            for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
        ),
        amount("cost_tokens"),
        amount("cost_micro_usd", nullable=True),
        amount("forgiven_tokens"),
        amount("forgiven_micro_usd", nullable=True),
        *(
            sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())
            for name in ("overrun", "adjusted", "refunded")
        ),
        sa.Column("error", sa.String(40), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('reserved', 'dispatched', 'settled', 'released')", name="charges_state"),
        sqlite_with_rowid=False,
    )
    still_open = sa.text("closed_ms IS NULL")
    op.create_index(
        "charges_open", "charges", ["lease_ms"], sqlite_where=still_open, postgresql_where=still_open
    )
    op.create_index("charges_of_user", "charges", ["user_id", "id"])


def create_triggers() -> None:
    """Increment the policy version on every change of tenants, users and quotas, by any program."""
    if op.get_bind().dialect.name == "sqlite":
        for table in POLICY_TABLES:
            for change in ("insert", "update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_{change}_raises_policy AFTER {change} ON {table}"
                    " BEGIN UPDATE policy SET version = version + 1; END"
                )
        return
    op.execute(
        "CREATE FUNCTION raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE policy SET version = version + 1; RETURN NULL; END $$"
    )
    for table in POLICY_TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_raises_policy AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION raise_policy_version()"
        )


def downgrade() -> None:
    for table in ("entries", "charges", "windows", "quotas", "users", "tenants", "policy"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION raise_policy_version()")
