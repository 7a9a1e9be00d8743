"""The tenant leads every key of the ledger, and each charge and entry carries its partition month.

The month is that of the time in the id of the charge or of the entry's source. So the openings of windows get ids of
this kind, too. Every table is copied by one statement, sorted by its new key.

Older code cannot serve on this schema: it does not write the new columns.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LEDGER = ("charges", "idempotency_keys", "windows", "entries")
BALANCES = ("granted", "settled", "pending", "forgiven")
STILL_OPEN, FREE = sa.text("closed_ms IS NULL"), sa.text("basis = 'cache'")
POSTGRES_MONTH = (
    "to_char(to_timestamp(('x' || left(right({}, 32), 12))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC', 'YYYYMM')"
    "::integer"
)
OPENING_ID = {
    "sqlite": "printf('win_%012x%020x', at_ms, window_id)",
    "postgresql": "'win_' || lpad(to_hex(at_ms), 12, '0') || lpad(to_hex(window_id), 20, '0')",
}
"""The id of the opening of a window: its time, and the window's own id as the bits that are random in other ids."""


def upgrade() -> None:
    begin()
    replace(
        "entries",
        entry_columns(keyed=True),
        f"SELECT tenant_id, window_id, sequence, {month_of('source_id')}, source_id, kind, {', '.join(BALANCES)},"
        f" at_ms, actor, reason FROM (SELECT quotas.tenant_id, window_id, entries.sequence,"
        f" CASE WHEN kind = 'open' THEN {OPENING_ID[dialect()]} ELSE source_id END AS source_id, kind,"
        f" {', '.join(f'entries.{name}' for name in BALANCES)}, at_ms, actor, reason"
        " FROM entries LEFT JOIN windows ON windows.id = window_id LEFT JOIN quotas ON quotas.id = quota_id) AS entry"
        " ORDER BY tenant_id, window_id, sequence",
    )
    replace(
        "idempotency_keys",
        key_columns(keyed=True),
        "SELECT charges.tenant_id, idempotency_keys.user_id, key, charge_id, fingerprint,"
        " idempotency_keys.created_ms, status, content_type, body"
        " FROM idempotency_keys LEFT JOIN charges ON charges.id = charge_id",
    )
    replace(
        "windows",
        window_columns(keyed=True),
        f"SELECT windows.id, tenant_id, quota_id, starts_ms, ends_ms,"
        f" {', '.join(f'windows.{name}' for name in BALANCES)}, sequence"
        " FROM windows LEFT JOIN quotas ON quotas.id = quota_id ORDER BY tenant_id, windows.id",
    )
    columns = charge_columns(keyed=True)
    copied = ", ".join(names_of(columns)[3:])
    replace(
        "charges",
        columns,
        f"SELECT tenant_id, {month_of('id')}, id, {copied} FROM charges ORDER BY tenant_id, id",
    )
    if dialect() == "postgresql":
        op.create_foreign_key(
            "entries_window_id_fkey", "entries", "windows", ["tenant_id", "window_id"], ["tenant_id", "id"]
        )
    create_indexes(
        entries_of_source=["tenant_id", "source_id", "kind", "window_id", "month"],
        idempotency_keys_of_charge=["charge_id", "tenant_id"],
    )
    op.create_index("windows_of_quota", "windows", ["tenant_id", "quota_id", "starts_ms"], unique=True)
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    begin()
    replace(
        "entries",
        entry_columns(keyed=False),
        "SELECT window_id, entries.sequence, CASE WHEN kind = 'open' THEN quota_id || ':' || starts_ms"
        f" ELSE source_id END, kind, {', '.join(f'entries.{name}' for name in BALANCES)}, at_ms, actor, reason"
        " FROM entries LEFT JOIN windows ON windows.id = window_id ORDER BY window_id, entries.sequence",
    )
    columns = charge_columns(keyed=False)
    replace("charges", columns, f"SELECT {', '.join(names_of(columns))} FROM charges ORDER BY id")
    columns = key_columns(keyed=False)
    replace("idempotency_keys", columns, f"SELECT {', '.join(names_of(columns))} FROM idempotency_keys")
    op.drop_index("windows_of_quota", "windows")
    columns = window_columns(keyed=False)
    replace("windows", columns, f"SELECT {', '.join(names_of(columns))} FROM windows ORDER BY id")
    if dialect() == "postgresql":
        op.create_foreign_key("entries_window_id_fkey", "entries", "windows", ["window_id"], ["id"])
    create_indexes(
        entries_of_source=["source_id", "kind", "window_id"],
        idempotency_keys_of_charge=["charge_id"],
    )
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{down_revision}'")


def dialect() -> str:
    return op.get_bind().dialect.name


def begin() -> None:
    """Keep every other session from the tables until the end: what it wrote meanwhile would be lost."""
    if dialect() == "postgresql":
        op.execute(f"LOCK TABLE {', '.join(LEDGER)} IN ACCESS EXCLUSIVE MODE")
        return
    # SQLite's write lock is held already.
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    create_function: Callable[..., None] = connection.create_function
    create_function("month_of", 1, python_month_of, deterministic=True)


def month_of(source_id: str) -> str:
    """The month of the id in this column, as YYYYMM, in SQL."""
    return f"month_of({source_id})" if dialect() == "sqlite" else POSTGRES_MONTH.format(source_id)


def python_month_of(source_id: str) -> int:
    moment = datetime.fromtimestamp(int(source_id[-32:-20], 16) / 1000, UTC)
    return moment.year * 100 + moment.month


def replace(table: str, columns: Sequence[sa.schema.SchemaItem], rows: str) -> None:
    """Put a new table with these columns and rows in the place of one, whose indexes go with it."""
    new = f"new_{table}"
    without_rowid = {"sqlite_with_rowid": False} if table in ("charges", "entries") else {}
    op.create_table(new, *columns, **without_rowid)
    op.execute(f"INSERT INTO {new} ({', '.join(names_of(columns))}) {rows}")
    if table == "windows" and dialect() == "postgresql":
        op.execute(f"ALTER SEQUENCE windows_id_seq OWNED BY {new}.id")
    op.drop_table(table)
    op.rename_table(new, table)
    if dialect() == "postgresql":
        op.execute(f"ALTER INDEX {new}_pkey RENAME TO {table}_pkey")


def create_indexes(**columns: list[str]) -> None:
    """The indexes that are dropped with the tables; these `columns` are the tenant's or not."""
    op.create_index("charges_open", "charges", ["lease_ms"], sqlite_where=STILL_OPEN, postgresql_where=STILL_OPEN)
    op.create_index("charges_free", "charges", ["created_ms"], sqlite_where=FREE, postgresql_where=FREE)
    op.create_index("charges_of_user", "charges", ["user_id", "id"])
    op.create_index("entries_of_source", "entries", columns["entries_of_source"], unique=True)
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_ms"])
    op.create_index("idempotency_keys_of_charge", "idempotency_keys", columns["idempotency_keys_of_charge"])


def names_of(columns: Sequence[sa.schema.SchemaItem]) -> list[str]:
    return [column.name for column in columns if isinstance(column, sa.Column)]


def references(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=f"{table}_{column}_fkey")


def tenant() -> sa.Column[int]:
    return sa.Column("tenant_id", sa.Integer(), nullable=False)


def month() -> sa.Column[int]:
    return sa.Column("month", sa.Integer(), nullable=False)


def amount(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable, server_default=None if nullable else "0")


def window_columns(*, keyed: bool) -> list[sa.schema.SchemaItem]:
    """On SQLite, the id stays the whole key: one file is neither partitioned nor spread."""
    has_tenant_in_key = keyed and dialect() == "postgresql"
    number = sa.text("nextval('windows_id_seq')") if dialect() == "postgresql" else None
    return [
        sa.Column("id", Id, nullable=False, autoincrement=dialect() == "sqlite", server_default=number),
        *([tenant(), references("windows", "tenant_id", "tenants.id")] if keyed else []),
        sa.Column("quota_id", sa.Integer(), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=True),
        *(amount(name) for name in (*BALANCES, "sequence")),
        sa.PrimaryKeyConstraint(*(("tenant_id", "id") if has_tenant_in_key else ("id",))),
        references("windows", "quota_id", "quotas.id"),
        sa.CheckConstraint("pending >= 0 AND forgiven >= 0 AND granted >= 0", name="windows_balances"),
        *([] if keyed else [sa.UniqueConstraint("quota_id", "starts_ms", name="windows_of_quota")]),
    ]


def entry_columns(*, keyed: bool) -> list[sa.schema.SchemaItem]:
    """On PostgreSQL, the reference to the window is added when the windows have their new key."""
    key = ("tenant_id", "window_id", "sequence", "month") if keyed else ("window_id", "sequence")
    return [
        *([tenant()] if keyed else []),
        sa.Column("window_id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        *([month()] if keyed else []),
        sa.Column("source_id", sa.String(60), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        *(amount(name) for name in BALANCES),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(254), nullable=True),
        sa.Column("reason", sa.String(500), nullable=True),
        sa.PrimaryKeyConstraint(*key),
        *([references("entries", "window_id", "windows.id")] if dialect() == "sqlite" else []),
    ]


def key_columns(*, keyed: bool) -> list[sa.schema.SchemaItem]:
    """Without a reference to the charge, whose month is in its id."""
    key = ("tenant_id", "user_id", "key") if keyed else ("user_id", "key")
    return [
        *([tenant()] if keyed else []),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("charge_id", sa.String(40), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("content_type", sa.String(100), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint(*key),
        references("idempotency_keys", "user_id", "users.id"),
        *([] if keyed else [references("idempotency_keys", "charge_id", "charges.id")]),
    ]


def charge_columns(*, keyed: bool) -> list[sa.schema.SchemaItem]:
    charge_id = sa.Column("id", sa.String(40), nullable=False)
    used = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
    flags = ("overrun", "adjusted", "refunded")
    return [
        *([tenant(), month(), charge_id] if keyed else [charge_id, tenant()]),
        sa.Column("user_id", sa.Integer(), nullable=False),
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
        *(amount(name, nullable=True) for name in used),
        amount("cost_tokens"),
        amount("cost_micro_usd", nullable=True),
        amount("forgiven_tokens"),
        amount("forgiven_micro_usd", nullable=True),
        *(sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()) for name in flags),
        sa.Column("error", sa.String(40), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
        amount("price_cache_write", nullable=True),
        sa.PrimaryKeyConstraint(*(("tenant_id", "month", "id") if keyed else ("id",))),
        references("charges", "tenant_id", "tenants.id"),
        references("charges", "user_id", "users.id"),
        sa.CheckConstraint("state IN ('reserved', 'dispatched', 'settled', 'released')", name="charges_state"),
    ]
