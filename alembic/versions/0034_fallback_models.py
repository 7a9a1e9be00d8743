"""A quota can name a model that answers the calls for which it has no room.

Older code can serve on this schema: it refuses such calls.
"""

import sqlalchemy as sa

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("quotas", sa.Column("fallback_model", sa.String(200), nullable=True))


def downgrade() -> None:
    op.drop_column("quotas", "fallback_model")
