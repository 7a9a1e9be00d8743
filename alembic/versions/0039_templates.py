"""Templates: quotas that each user, API key or conversation of a tenant has, with windows for each of these values.

A charge keeps the name of its conversation. Older code cannot serve on this schema: it would open windows without their
values, and skip templates.

A value is a text without a length: PostgreSQL expects long values of a column with one, and so few rows in a table
without statistics, that it keeps plans which read all windows of a tenant.
"""

import sqlalchemy as sa

from alembic import op

revision = "0039"
down_revision = "0037"
branch_labels = None
depends_on = None

NO_END = 2**63 - 1
REFUSE_OVERLAP = (
    "CREATE OR REPLACE FUNCTION windows_refuse_overlap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF EXISTS (SELECT 1 FROM (SELECT ends_ms FROM windows WHERE tenant_id = NEW.tenant_id"
    f" AND quota_id = NEW.quota_id{{same}} AND starts_ms < coalesce(NEW.ends_ms, {NO_END})"
    " ORDER BY starts_ms DESC LIMIT 1) AS last WHERE last.ends_ms IS NULL OR last.ends_ms > NEW.starts_ms) THEN"
    " RAISE EXCEPTION 'a window of quota % would overlap another one of it', NEW.quota_id"
    " USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
)
"""The last window that starts before the end of the new one decides: those before it end before it starts."""
KINDS = ("quotas", "alert_rules", "quota_alerts")
"""Tables whose `kind` may be that of a template."""
OF_TEMPLATES = "SELECT count(*) FROM quotas WHERE kind LIKE 'each%'"


def upgrade() -> None:
    op.add_column("windows", sa.Column("value", sa.Text(), nullable=False, server_default=""))
    op.add_column("windows", sa.Column("base", sa.BigInteger(), nullable=True))
    op.add_column("charges", sa.Column("conversation", sa.String(100), nullable=True))
    op.drop_index("windows_of_quota", "windows")
    op.create_index("windows_of_quota", "windows", ["tenant_id", "quota_id", "value", "starts_ms"], unique=True)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(REFUSE_OVERLAP.format(same=" AND value = NEW.value"))
        for table in KINDS:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN kind TYPE varchar(20)")
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a quota that older code does not know."""
    if op.get_bind().execute(sa.text(OF_TEMPLATES)).scalar_one():
        raise RuntimeError("There are templates, which older code does not know.")
    op.drop_index("windows_of_quota", "windows")
    op.create_index("windows_of_quota", "windows", ["tenant_id", "quota_id", "starts_ms"], unique=True)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(REFUSE_OVERLAP.format(same=""))
        for table in KINDS:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN kind TYPE varchar(10)")
    op.drop_column("charges", "conversation")
    op.drop_column("windows", "base")
    op.drop_column("windows", "value")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0037'")
