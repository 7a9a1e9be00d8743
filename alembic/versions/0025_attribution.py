"""Each charge carries what it is booked on besides its user: the API key, the group and the tags of the call.

Older code can serve on this schema: its charges have none of them.
"""

import sqlalchemy as sa

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("charges", sa.Column("key_id", sa.String(40), nullable=True))
    op.add_column("charges", sa.Column("group_id", sa.Integer(), nullable=True))
    op.add_column("charges", sa.Column("tags", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("tags", "group_id", "key_id"):
        op.drop_column("charges", column)
