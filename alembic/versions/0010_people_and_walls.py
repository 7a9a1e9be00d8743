"""Sessions, single sign-on, second factors, links, tenants' provider keys, and the audit log.

Older code can serve on this schema: it does not know the new tables, and the new columns have defaults.
"""

import sqlalchemy as sa

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NEW_TABLES = (
    "sessions",
    "totp_secrets",
    "one_time_links",
    "tenant_domains",
    "identity_providers",
    "identities",
    "used_oidc_states",
    "api_key_uses",
    "wrapped_keys",
    "provider_keys",
    "switched_off",
    "configuration",
    "audit_heads",
    "audit_lines",
    "admin_requests",
)
WATCHED = ("provider_keys", "switched_off")
"""Tables whose contents every process keeps in memory. A change of one raises the version of the configuration."""


def upgrade() -> None:
    add_columns()
    op.create_index("users_of_tenant", "users", ["tenant_id", "id"])
    create_identity_tables()
    create_encrypted_tables()
    create_audit_tables()
    op.execute("INSERT INTO configuration (id, version) VALUES (1, 0)")
    create_triggers()


def add_columns() -> None:
    op.add_column("tenants", sa.Column("default_limit", sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("default_period", sa.String(10), nullable=True))
    op.add_column("users", sa.Column("kind", sa.String(10), nullable=False, server_default="person"))
    op.add_column("users", sa.Column("erased_at", sa.DateTime(), nullable=True))
    op.add_column("api_keys", sa.Column("models", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("surfaces", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("networks", sa.Text(), nullable=True))
    op.add_column("conversations", sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("conversation_turns", sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("conversations_used", "conversations", ["updated_ms"])


def create_identity_tables() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(40), primary_key=True),
        *owner(),
        sa.Column("method", sa.String(10), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("authenticated_ms", sa.BigInteger(), nullable=False),
        sa.Column("rotated_ms", sa.BigInteger(), nullable=False),
        sa.Column("access_ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
    )
    op.create_index("sessions_of_user", "sessions", ["user_id", "revoked_ms"])
    op.create_index("sessions_expiring", "sessions", ["expires_ms"])
    op.create_index("sessions_revoked", "sessions", ["revoked_ms"])
    op.create_table(
        "totp_secrets",
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("recovery_hashes", sa.Text(), nullable=False),
        sa.Column("last_counter", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_ms", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "one_time_links",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=True),
        sa.Column("token_version", sa.Integer(), nullable=True),
        sa.Column("email", sa.String(254), nullable=True),
        sa.Column("role", sa.String(20), nullable=True),
        sa.Column("created_by", sa.Integer(), sa.ForeignKey("users.id"), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "tenant_domains",
        sa.Column("domain", sa.String(253), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "identity_providers",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False, unique=True),
        sa.Column("name", sa.String(40), nullable=False, unique=True),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("client_id", sa.String(200), nullable=False),
        sa.Column("sealed_client_secret", sa.LargeBinary(), nullable=True),
        sa.Column("scopes", sa.String(200), nullable=False),
        sa.Column("role_claim", sa.String(100), nullable=True),
        sa.Column("admin_values", sa.Text(), nullable=True),
        sa.Column("disabled_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "identities",
        sa.Column(
            "tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False
        ),
        sa.Column("issuer", sa.String(500), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "used_oidc_states",
        sa.Column("state_hash", sa.String(64), primary_key=True),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "api_key_uses",
        sa.Column("key_id", sa.String(40), sa.ForeignKey("api_keys.id"), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
    )


def create_encrypted_tables() -> None:
    op.create_table(
        "wrapped_keys",
        sa.Column("purpose", sa.String(20), primary_key=True),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "provider_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("suffix", sa.String(4), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("tenant_id", "provider"),
    )
    op.create_table(
        "switched_off",
        sa.Column("kind", sa.String(10), primary_key=True),
        sa.Column("name", sa.String(250), primary_key=True),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "configuration",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )


def create_audit_tables() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "audit_lines",
        sa.Column("tenant_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("target", sa.String(250), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("reason", sa.String(500), nullable=True),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("correlation_id", sa.String(64), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
    )
    op.create_index("audit_lines_by_time", "audit_lines", ["at_ms", "tenant_id", "sequence"])
    op.create_index("audit_lines_of_tenant", "audit_lines", ["tenant_id", "at_ms", "sequence"])
    for column in ("action", "actor", "target"):
        op.create_index(f"audit_lines_of_{column}", "audit_lines", ["tenant_id", column, "at_ms", "sequence"])
    op.create_table(
        "admin_requests",
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("sealed_body", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("admin_requests_created", "admin_requests", ["created_ms"])


def owner() -> list[sa.Column[int]]:
    return [
        sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
    ]


def create_triggers() -> None:
    """Raise the configuration's version with each change of a watched table; and, on PostgreSQL, the policy version of
    a tenant one of whose sessions is revoked.
    """
    raise_version = "UPDATE configuration SET version = version + 1"
    if op.get_bind().dialect.name == "sqlite":
        for table in WATCHED:
            for change in ("insert", "update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_{change}_raises_configuration AFTER {change} ON {table}"
                    f" BEGIN {raise_version}; END"
                )
        return
    op.execute(
        "CREATE FUNCTION raise_configuration_version() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {raise_version}; RETURN NULL; END $$"
    )
    for table in WATCHED:
        op.execute(
            f"CREATE TRIGGER {table}_raises_configuration AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION raise_configuration_version()"
        )
    op.execute(
        "CREATE FUNCTION sessions_raise_policy_version() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM raise_policy_version(NEW.tenant_id); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER sessions_raises_policy AFTER UPDATE OF revoked_ms ON sessions"
        " FOR EACH ROW WHEN (OLD.revoked_ms IS DISTINCT FROM NEW.revoked_ms)"
        " EXECUTE FUNCTION sessions_raise_policy_version()"
    )


def downgrade() -> None:
    for table in reversed(NEW_TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION raise_configuration_version()")
        op.execute("DROP FUNCTION sessions_raise_policy_version()")
    op.drop_index("conversations_used", "conversations")
    op.drop_index("users_of_tenant", "users")
    for table, names in {
        "tenants": ("default_limit", "default_period"),
        "users": ("kind", "erased_at"),
        "api_keys": ("models", "surfaces", "networks"),
        "conversations": ("sealed",),
        "conversation_turns": ("sealed",),
    }.items():
        for name in names:
            op.drop_column(table, name)
