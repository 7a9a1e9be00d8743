"""Tags: a tenant declares names, and calls have them with a value. A quota can be of a tag with a value.

Older code cannot serve on this schema: it does not know the quotas of tags, and jobs would lose their tags.
"""

import sqlalchemy as sa

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("tag_names", "tag_values")
RULES = "name, any_value, is_required, version, closed_ms"
"""What calls are decided by. The other columns change with the first use of a value, which changes no rule."""
OF_TAGS = "SELECT count(*) FROM quotas WHERE kind = 'tag'"


def upgrade() -> None:
    op.create_table(
        "tag_names",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("any_value", sa.Boolean(), nullable=False),
        sa.Column("is_required", sa.Boolean(), nullable=False),
        sa.Column("max_values", sa.Integer(), nullable=False),
        sa.Column("known_values", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
    )
    op.create_index("tag_names_by_name", "tag_names", ["tenant_id", "name"], unique=True)
    op.create_table(
        "tag_values",
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("tag_id", sa.Integer(), sa.ForeignKey("tag_names.id"), nullable=False),
        sa.Column("value", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "tag_id", "value"),
    )
    for table in ("api_keys", "jobs", "batches"):
        op.add_column(table, sa.Column("tags", sa.Text(), nullable=True))
    if op.get_bind().dialect.name != "sqlite":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
        op.execute(
            "CREATE FUNCTION tag_names_raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM raise_policy_version(NEW.tenant_id); RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER tag_names_raise_policy AFTER INSERT OR UPDATE OF {RULES} ON tag_names"
            " FOR EACH ROW EXECUTE FUNCTION tag_names_raise_policy_version()"
        )
    op.execute(f"UPDATE schema_compatibility SET oldest_revision = '{revision}'")


def downgrade() -> None:
    """Fails, and leaves the database as it is, if there is a quota that older code does not know."""
    if op.get_bind().execute(sa.text(OF_TAGS)).scalar_one():
        raise RuntimeError("There are quotas of tags, which older code does not know.")
    for table in ("batches", "jobs", "api_keys"):
        op.drop_column(table, "tags")
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION tag_names_raise_policy_version()")
    op.execute("UPDATE schema_compatibility SET oldest_revision = '0036'")
