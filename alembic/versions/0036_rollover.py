"""What is unused in a window of a quota rolls over into the next one, up to a cap.

Older code can serve on this schema only without such quotas: it would open windows without what rolls over.
"""

import sqlalchemy as sa

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("quotas", sa.Column("rollover_cap", sa.BigInteger(), nullable=True))
    op.add_column("windows", sa.Column("rolled", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    op.drop_column("windows", "rolled")
    op.drop_column("quotas", "rollover_cap")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0035'")
