"""The secrets of the tags in API keys: a forged key is refused without a look-up."""

import secrets
import time

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "key_tag_secrets",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    first = {"secret": secrets.token_bytes(32), "created_ms": time.time_ns() // 1_000_000}
    op.bulk_insert(table, [first])


def downgrade() -> None:
    op.drop_table("key_tag_secrets")
