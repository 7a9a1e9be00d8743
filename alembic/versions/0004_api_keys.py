"""API keys of users."""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(20), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
    )
    unrevoked = sa.text("revoked_ms IS NULL")
    op.create_index(
        "api_keys_of_user", "api_keys", ["user_id"], sqlite_where=unrevoked, postgresql_where=unrevoked
    )
    create_triggers()


def create_triggers() -> None:
    """Increment the policy version when a key is created or revoked, by any program."""
    if op.get_bind().dialect.name == "sqlite":
        for change in ("insert", "update", "delete"):
            op.execute(
                f"CREATE TRIGGER api_keys_{change}_raises_policy AFTER {change} ON api_keys"
                " BEGIN UPDATE policy SET version = version + 1; END"
            )
        return
    op.execute(
        "CREATE TRIGGER api_keys_raises_policy AFTER INSERT OR UPDATE OR DELETE ON api_keys"
        " FOR EACH STATEMENT EXECUTE FUNCTION raise_policy_version()"
    )


def downgrade() -> None:
    op.drop_table("api_keys")
