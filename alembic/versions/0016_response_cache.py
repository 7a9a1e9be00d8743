"""For whom each tenant's response cache is on; an erased user's answers leave the caches of all processes.

Older code can serve on this schema: it has no cache.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TRIGGERS = {
    "tenants": ("cache_scopes_raise_configuration", "AFTER UPDATE OF cache_scope ON tenants"),
    "users": ("erasures_raise_configuration", "AFTER UPDATE OF erased_at ON users"),
}
"""What raises the version of the configuration: each process then empties its cache."""


def upgrade() -> None:
    op.add_column("tenants", sa.Column("cache_scope", sa.String(10), nullable=True))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name, event in TRIGGERS.values():
        if is_sqlite:
            op.execute(f"CREATE TRIGGER {name} {event} BEGIN UPDATE configuration SET version = version + 1; END")
        else:
            op.execute(f"CREATE TRIGGER {name} {event} FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, (name, _) in TRIGGERS.items():
        op.execute(f"DROP TRIGGER {name}" + ("" if is_sqlite else f" ON {table}"))
    op.drop_column("tenants", "cache_scope")
