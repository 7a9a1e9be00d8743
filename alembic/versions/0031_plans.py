"""Plans: named sets of rate limits, default quotas, allowed models and retention; and which one a tenant is on.

Older code can serve on this schema: it knows no plans.
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
TRIGGERS = {
    "plans_raise_configuration": "AFTER UPDATE ON plans",
    "tenants_plan_raises_configuration": "AFTER UPDATE OF plan_id ON tenants",
}


def upgrade() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.add_column("tenants", sa.Column("plan_id", sa.Integer(), nullable=True))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name, event in TRIGGERS.items():
        if is_sqlite:
            op.execute(f"CREATE TRIGGER {name} {event} BEGIN UPDATE configuration SET version = version + 1; END")
        else:
            op.execute(
                f"CREATE TRIGGER {name} {event} FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()"
            )
    if not is_sqlite:
        op.execute("ALTER TABLE plans ENABLE ROW LEVEL SECURITY")
        op.execute("CREATE POLICY readable ON plans FOR SELECT USING (true)")
        op.execute(f"CREATE POLICY of_operators ON plans USING ({SETTING} = -1)")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name, event in TRIGGERS.items():
        op.execute(f"DROP TRIGGER {name}" + ("" if is_sqlite else f" ON {event.rpartition(' ')[2]}"))
    op.drop_column("tenants", "plan_id")
    op.drop_table("plans")
