"""Documents: their chunks, the index of the words, and the vectors.

Older code can serve on this schema: it does not know the new tables.
"""

import sqlalchemy as sa

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
TABLES = ("documents", "document_chunks", "document_vectors", "document_uses")


def _tenant() -> sa.Column:
    return sa.Column("tenant_id", sa.Integer(), sa.ForeignKey("tenants.id"), nullable=False)


def _key_of_document() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id", "document_id"], ["documents.tenant_id", "documents.id"])


def upgrade() -> None:
    op.create_table(
        "documents",
        _tenant(),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("chunks", sa.Integer(), nullable=True),
        sa.Column("embedded", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(200), nullable=True),
        sa.Column("error", sa.String(40), nullable=True),
        sa.Column("reason", sa.String(200), nullable=True),
        sa.Column("api_key", sa.String(40), nullable=True),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("queued_ms", sa.BigInteger(), nullable=False),
        sa.Column("available_ms", sa.BigInteger(), nullable=False),
        sa.Column("completed_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'ready', 'failed', 'deleting')", name="documents_status"
        ),
        sa.CheckConstraint("owner_id IN (0, user_id)", name="documents_owner"),
    )
    op.create_index("documents_of_key", "documents", ["tenant_id", "user_id", "idempotency_key"], unique=True)
    op.execute(
        "CREATE INDEX documents_open ON documents (tenant_id, id) WHERE status IN ('pending', 'processing', 'deleting')"
    )
    op.create_table(
        "document_chunks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        _tenant(),
        sa.Column("document_id", sa.String(40), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.LargeBinary(), nullable=False),
        _key_of_document(),
    )
    op.create_index("chunks_of_document", "document_chunks", ["tenant_id", "document_id", "number"], unique=True)
    op.create_table(
        "document_vectors",
        _tenant(),
        sa.Column("document_id", sa.String(40), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("vectors", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "document_id", "first"),
        _key_of_document(),
    )
    op.create_table(
        "document_uses",
        _tenant(),
        sa.Column("document_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "document_id", "kind", "key", "user_id"),
    )
    op.create_index("document_uses_by_age", "document_uses", ["created_ms"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("CREATE VIRTUAL TABLE chunk_words USING fts5 (words, tokenize = 'ascii')")
        op.execute(
            "CREATE TRIGGER chunk_words_of_deleted AFTER DELETE ON document_chunks"
            " BEGIN DELETE FROM chunk_words WHERE rowid = old.id; END"
        )
        return
    op.execute("ALTER TABLE document_chunks ADD COLUMN words tsvector NOT NULL DEFAULT ''")
    op.execute("CREATE INDEX chunk_words ON document_chunks USING gin (words)")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE chunk_words")
    for table in reversed(TABLES):
        op.drop_table(table)
