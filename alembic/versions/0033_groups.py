"""Groups of users: a call counts for one of the groups that its user is a member of.

Older code cannot serve on this schema: it does not know the quotas of groups, and jobs would lose their group.
"""

import sqlalchemy as sa

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("user_groups", "group_members")
IS_DEFAULT = sa.text("is_default")
OF_GROUPS = "SELECT count(*) FROM quotas WHERE kind = 'group'"


def upgrade() -> None:
    op.create_table(
        "user_groups",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
    )
    op.create_index("user_groups_by_name", "user_groups", ["tenant_id", "name"], unique=True)
    op.create_table(
        "group_members",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("group_id", sa.Integer(), sa.ForeignKey("user_groups.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "group_id", "user_id"),
    )
    op.create_index("group_members_of_user", "group_members", ["user_id"])
    op.create_index(
        "group_members_default",
        "group_members",
        ["user_id"],
        unique=True,
        sqlite_where=IS_DEFAULT,
        postgresql_where=IS_DEFAULT,
    )
    for table in ("jobs", "batches"):
        op.add_column(table, sa.Column("group_name", sa.String(64), nullable=True))
    if op.get_bind().dialect.name != "sqlite":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
            raise_policy_version(table)
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def raise_policy_version(table: str) -> None:
    """Have each change of the table raise the policy version of its tenant, as changes of users and quotas do."""
    op.execute(
        f"CREATE FUNCTION {table}_raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' THEN PERFORM raise_policy_version(OLD.tenant_id);"
        " ELSE PERFORM raise_policy_version(NEW.tenant_id); END IF; RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_raises_policy AFTER INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {table}_raise_policy_version()"
    )


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a quota that older code does not know."""
    if op.get_bind().execute(sa.text(OF_GROUPS)).scalar_one():
        raise RuntimeError("There are quotas of groups, which older code does not know.")
    for table in ("batches", "jobs"):
        op.drop_column(table, "group_name")
    for table in reversed(TABLES):
        op.drop_table(table)
        if op.get_bind().dialect.name != "sqlite":
            op.execute(f"DROP FUNCTION {table}_raise_policy_version()")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0029'")
