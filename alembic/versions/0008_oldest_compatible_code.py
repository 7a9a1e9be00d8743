"""The oldest code that can serve on this schema, so that a rolling upgrade need not stop the old servers first.

A later migration that older code cannot serve on sets the row to its own revision; any other leaves it as it is.
"""

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "schema_compatibility",
        sa.Column("oldest_revision", sa.String(32), primary_key=True, comment="SCHEMA_REVISION of the oldest code"),
    )
    op.bulk_insert(table, [{"oldest_revision": revision}])


def downgrade() -> None:
    op.drop_table("schema_compatibility")
