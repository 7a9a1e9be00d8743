"""An index of windows by their end: the alerts look only at those that have not ended.

Older code can serve on this schema.
"""

from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("windows_by_end", "windows", ["tenant_id", "quota_id", "ends_ms"])


def downgrade() -> None:
    op.drop_index("windows_by_end", "windows")
