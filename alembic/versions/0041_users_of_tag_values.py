"""Who has brought a value of a tag, and the how manyth of theirs it is: one user cannot take all places of a tag.

Values that are known before have no user.
"""

import sqlalchemy as sa

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tag_values", sa.Column("user_id", sa.Integer(), nullable=True))
    op.add_column("tag_values", sa.Column("user_number", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("tag_values_by_user", "tag_values", ["tenant_id", "tag_id", "user_id", "user_number"])


def downgrade() -> None:
    op.drop_index("tag_values_by_user", "tag_values")
    op.drop_column("tag_values", "user_number")
    op.drop_column("tag_values", "user_id")
