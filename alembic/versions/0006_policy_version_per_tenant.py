"""One policy version per tenant: a change in one tenant locks no row that the calls of another tenant need.

A version is the time of the change in microseconds, at least one more than the version before. So a database that was
restored to an earlier state never has a version again that it had before with other contents. SQLite has no use for
versions (see `quota/stores/sqlite/row_cache.py`), so it has no triggers.
"""

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TENANT_COLUMNS = {"tenants": "id", "users": "tenant_id", "quotas": "tenant_id"}
PROBED_ROW = 0
"""A row of no tenant. The ledger writes to it to find out whether the database can be written to."""


def upgrade() -> None:
    drop_triggers()
    op.drop_table("policy")
    op.create_table(
        "policy",
        sa.Column("tenant_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
    op.execute(f"INSERT INTO policy (tenant_id, version) VALUES ({PROBED_ROW}, 0)")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("INSERT INTO policy (tenant_id, version) SELECT id, 1 FROM tenants")
        create_triggers()


def create_triggers() -> None:
    op.execute(
        "CREATE FUNCTION raise_policy_version(tenant integer) RETURNS void LANGUAGE sql AS $$"
        " INSERT INTO policy (tenant_id, version)"
        " VALUES (tenant, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
        " ON CONFLICT (tenant_id) DO UPDATE SET version = greatest(policy.version + 1, excluded.version) $$"
    )
    for table, column in TENANT_COLUMNS.items():
        create_trigger(table, f"NEW.{column}", f"OLD.{column}")
    tenant_of_key = "(SELECT tenant_id FROM users WHERE id = {}.user_id)"
    create_trigger("api_keys", tenant_of_key.format("NEW"), tenant_of_key.format("OLD"))


def create_trigger(table: str, new_tenant: str, old_tenant: str) -> None:
    """Raise the version of the tenant that a row belongs to; of both tenants, if a row changes its tenant."""
    op.execute(
        f"CREATE FUNCTION {table}_raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP <> 'DELETE' THEN PERFORM raise_policy_version({new_tenant}); END IF;"
        f" IF TG_OP = 'DELETE' THEN PERFORM raise_policy_version({old_tenant});"
        f" ELSIF TG_OP = 'UPDATE' THEN IF {old_tenant} <> {new_tenant} THEN"
        f" PERFORM raise_policy_version({old_tenant}); END IF; END IF;"
        " RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_raises_policy AFTER INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {table}_raise_policy_version()"
    )


def drop_triggers() -> None:
    tables = (*TENANT_COLUMNS, "api_keys")
    if op.get_bind().dialect.name == "sqlite":
        for table in tables:
            for change in ("insert", "update", "delete"):
                op.execute(f"DROP TRIGGER {table}_{change}_raises_policy")
        return
    for table in tables:
        op.execute(f"DROP TRIGGER {table}_raises_policy ON {table}")
    op.execute("DROP FUNCTION raise_policy_version()")


def downgrade() -> None:
    op.drop_table("policy")
    op.create_table("policy", sa.Column("version", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO policy (version) VALUES (1)")
    restore_triggers()


def restore_triggers() -> None:
    """One version for all tenants, raised by every statement that changes one of the tables."""
    tables = (*TENANT_COLUMNS, "api_keys")
    if op.get_bind().dialect.name == "sqlite":
        for table in tables:
            for change in ("insert", "update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_{change}_raises_policy AFTER {change} ON {table}"
                    " BEGIN UPDATE policy SET version = version + 1; END"
                )
        return
    for table in tables:
        op.execute(f"DROP TRIGGER {table}_raises_policy ON {table}")
        op.execute(f"DROP FUNCTION {table}_raise_policy_version()")
    op.execute("DROP FUNCTION raise_policy_version(integer)")
    op.execute(
        "CREATE FUNCTION raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE policy SET version = version + 1; RETURN NULL; END $$"
    )
    for table in tables:
        op.execute(
            f"CREATE TRIGGER {table}_raises_policy AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION raise_policy_version()"
        )
