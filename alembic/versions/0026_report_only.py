"""A quota can only report: it refuses no call, and says which ones it would refuse.

Older code can serve on this schema: it refuses what such a quota would only report.
"""

import sqlalchemy as sa

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("quotas", "windows"):
        op.add_column(table, sa.Column("report_only", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for table in ("windows", "quotas"):
        op.drop_column(table, "report_only")
