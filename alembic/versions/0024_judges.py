"""The judge of each tenant: the model that rates answers, and its rubric.

Older code can serve on this schema: it rates nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TRIGGER, EVENT = "judges_raise_configuration", "AFTER UPDATE OF judge_model, judge_rubric ON tenants"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("judge_model", sa.String(200), nullable=True))
    op.add_column("tenants", sa.Column("judge_rubric", sa.String(4000), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER {TRIGGER} {EVENT} BEGIN UPDATE configuration SET version = version + 1; END")
    else:
        op.execute(f"CREATE TRIGGER {TRIGGER} {EVENT} FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(f"DROP TRIGGER {TRIGGER}" + ("" if is_sqlite else " ON tenants"))
    op.drop_column("tenants", "judge_rubric")
    op.drop_column("tenants", "judge_model")
