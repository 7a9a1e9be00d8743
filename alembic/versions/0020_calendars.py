"""Each tenant has a time zone and a reset day, by which days, weeks and months of its quotas begin.

Windows of one quota never overlap: on PostgreSQL a trigger refuses it, on SQLite the statement that creates a window.
Older code cannot serve on this schema: it would open windows by the calendar of UTC.
"""

import sqlalchemy as sa

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

NO_END = 2**63 - 1
REFUSE_OVERLAP = (
    "CREATE FUNCTION windows_refuse_overlap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF EXISTS (SELECT 1 FROM (SELECT ends_ms FROM windows WHERE tenant_id = NEW.tenant_id"
    f" AND quota_id = NEW.quota_id AND starts_ms < coalesce(NEW.ends_ms, {NO_END})"
    " ORDER BY starts_ms DESC LIMIT 1) AS last WHERE last.ends_ms IS NULL OR last.ends_ms > NEW.starts_ms) THEN"
    " RAISE EXCEPTION 'a window of quota % would overlap another one of it', NEW.quota_id"
    " USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
)
"""The last window that starts before the end of the new one decides: those before it end before it starts."""


def upgrade() -> None:
    op.add_column("tenants", sa.Column("time_zone", sa.String(64), nullable=False, server_default="UTC"))
    op.add_column("tenants", sa.Column("reset_day", sa.Integer(), nullable=False, server_default="1"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(REFUSE_OVERLAP)
        op.execute(
            "CREATE TRIGGER windows_refuse_overlap BEFORE INSERT ON windows"
            " FOR EACH ROW EXECUTE FUNCTION windows_refuse_overlap()"
        )
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER windows_refuse_overlap ON windows")
        op.execute("DROP FUNCTION windows_refuse_overlap()")
    op.drop_column("tenants", "reset_day")
    op.drop_column("tenants", "time_zone")
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '0017'")
