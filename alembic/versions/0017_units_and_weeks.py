"""Quotas may count requests and concurrency, and have windows of a week.

Older code can serve on this schema until there is such a quota: it does not know what it means, and refuses the calls
that it applies to. So stop servers of older versions first.
"""

import sqlalchemy as sa

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

UNITS = ("tokens", "micro_usd")
PERIODS = ("minute", "hour", "day", "month", "total")
NEW_UNITS, NEW_PERIODS = (*UNITS, "requests", "concurrency"), ("minute", "hour", "day", "week", "month", "total")
OWNERS = {"quotas_of_user": ("user_id", "user_id IS NOT NULL"), "quotas_of_tenant": ("tenant_id", "user_id IS NULL")}


def upgrade() -> None:
    change(NEW_UNITS, NEW_PERIODS, unit_length=12)
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a quota that older code does not know."""
    change(UNITS, PERIODS, unit_length=10)
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0009'")


def change(units: tuple[str, ...], periods: tuple[str, ...], *, unit_length: int) -> None:
    checks = {"quotas_unit": one_of("unit", units), "quotas_period": one_of("period", periods)}
    if op.get_bind().dialect.name == "sqlite":
        replace_table(checks, unit_length)
        return
    for name in checks:
        op.drop_constraint(name, "quotas", type_="check")
    op.alter_column("quotas", "unit", type_=sa.String(unit_length))
    for name, condition in checks.items():
        op.create_check_constraint(name, "quotas", condition)


def one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(repr, values))})"


def replace_table(checks: dict[str, str], unit_length: int) -> None:
    """SQLite cannot change a check: the rows are copied to a new table, which takes the place of the old one."""
    op.create_table(
        "new_quotas",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=True),
        sa.Column("unit", sa.String(unit_length), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        *(sa.CheckConstraint(condition, name=name) for name, condition in checks.items()),
        sa.CheckConstraint("granted >= 0", name="quotas_granted"),
    )
    columns = "id, tenant_id, user_id, unit, period, granted"
    op.execute(f"INSERT INTO new_quotas ({columns}) SELECT {columns} FROM quotas ORDER BY id")
    op.drop_table("quotas")
    op.rename_table("new_quotas", "quotas")
    for name, (owner, condition) in OWNERS.items():
        op.create_index(name, "quotas", [owner, "unit", "period"], unique=True, sqlite_where=sa.text(condition))
