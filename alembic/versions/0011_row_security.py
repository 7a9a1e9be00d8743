"""Row-level security on PostgreSQL: a policy on every table of tenants, which the owner of the tables bypasses.

`tollkeeper.database.row_security` creates the role of requests after this, which the policies are for. It is not part of the
migration, because the database's user may lack the right to create roles: `tollkeeper migrate` tries again each time.

Older code can serve on this schema, if it connects as the owner of the tables.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = (
    "users",
    "api_keys",
    "api_key_uses",
    "sessions",
    "totp_secrets",
    "one_time_links",
    "identity_providers",
    "identities",
    "tenant_domains",
    "provider_keys",
    "conversations",
    "conversation_turns",
    "quotas",
    "windows",
    "charges",
    "entries",
    "idempotency_keys",
    "policy",
    "audit_lines",
    "audit_heads",
    "admin_requests",
)
SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
"""The tenant of a request; -1 is all tenants. Without the setting it is null, and no row is visible."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column in (("tenants", "id"), *((table, "tenant_id") for table in TABLES)):
        is_visible = f"{column} = {SETTING} OR {SETTING} = -1"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({is_visible}) WITH CHECK ({is_visible})")
    op.execute("ALTER TABLE switched_off ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY readable ON switched_off FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY of_operators ON switched_off USING ({SETTING} = -1)")
    op.execute(
        "CREATE FUNCTION taken_emails(wanted text[]) RETURNS SETOF text LANGUAGE sql STABLE SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp"
        f" AS $$ SELECT email::text FROM {schema()}.users WHERE email = ANY (wanted) $$"
    )
    op.execute("REVOKE ALL ON FUNCTION taken_emails(text[]) FROM PUBLIC")


def schema() -> str:
    return str(op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one())


def downgrade() -> None:
    """The role stays: other databases of the same PostgreSQL may use it. Here it loses its rights."""
    if op.get_bind().dialect.name == "sqlite":
        return
    role = op.get_bind().exec_driver_sql(
        "SELECT quote_ident(rolname) FROM pg_roles, pg_class WHERE pg_class.oid = 'charges'::regclass"
        " AND rolname = pg_get_userbyid(relowner) || '_requests'"
    ).scalar_one_or_none()
    if role is not None:
        for kind in ("TABLES", "SEQUENCES"):
            op.execute(f"REVOKE ALL ON ALL {kind} IN SCHEMA {schema()} FROM {role}")
    op.execute("DROP FUNCTION taken_emails(text[])")
    op.execute("DROP POLICY of_operators ON switched_off")
    op.execute("DROP POLICY readable ON switched_off")
    for table in ("switched_off", "tenants", *TABLES):
        if table != "switched_off":
            op.execute(f"DROP POLICY of_tenant ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
