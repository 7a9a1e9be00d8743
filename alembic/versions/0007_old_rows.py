"""Indexes by which old charges of repeated responses are found, and the idempotency keys of a charge."""

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    free = sa.text("basis = 'cache'")
    op.create_index("charges_free", "charges", ["created_ms"], sqlite_where=free, postgresql_where=free)
    op.create_index("idempotency_keys_of_charge", "idempotency_keys", ["charge_id"])


def downgrade() -> None:
    op.drop_index("idempotency_keys_of_charge", "idempotency_keys")
    op.drop_index("charges_free", "charges")
