"""On PostgreSQL, charges and entries are partitioned by their month; on both databases, old months can be archived.

A filled table is not copied: it becomes the partition of all months until the end of the current one. PostgreSQL reads
it twice meanwhile, under a lock that keeps every other session out. Its indexes stay as they are.

The partitions of later months are made by `add_ledger_partition`, which `migrate` calls after this, and the server. What
has none goes to the default partition, so a missing partition refuses no call.

Older code can serve on this schema.
"""

import sqlalchemy as sa

from alembic import op

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

PRIMARY_KEYS = {"charges": "tenant_id, month, id", "entries": "tenant_id, window_id, sequence, month"}
INDEXES = {
    "charges_open": ("charges", "(lease_ms) WHERE closed_ms IS NULL"),
    "charges_free": ("charges", "(created_ms) WHERE basis = 'cache'"),
    "charges_of_user": ("charges", "(user_id, id)"),
    "entries_of_source": ("entries", "(tenant_id, source_id, kind, window_id, month)"),
}
UNIQUE = ("entries_of_source",)
FOREIGN_KEYS = {
    "charges_tenant_id_fkey": ("charges", "tenant_id", "tenants (id)"),
    "charges_user_id_fkey": ("charges", "user_id", "users (id)"),
    "entries_window_id_fkey": ("entries", "tenant_id, window_id", "windows (tenant_id, id)"),
}
SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
IS_VISIBLE = f"tenant_id = {SETTING} OR {SETTING} = -1"
THIS_MONTH = "to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::integer"
TOTALS = ("windows", "entries", "granted", "settled", "pending", "forgiven")

MONTH_AFTER = (
    "CREATE FUNCTION month_after(month integer) RETURNS integer LANGUAGE sql IMMUTABLE"
    " AS $$ SELECT month + CASE WHEN month % 100 = 12 THEN 89 ELSE 1 END $$"
)
PARTITIONS = r"""
CREATE VIEW ledger_partitions AS
SELECT parent.relname::text AS parent, child.relname::text AS name,
    coalesce(substring(bound FROM 'FROM \(([0-9]+)\)')::integer, 0) AS first_month,
    substring(bound FROM 'TO \(([0-9]+)\)')::integer AS month_after
FROM pg_class AS parent JOIN pg_inherits ON inhparent = parent.oid JOIN pg_class AS child ON child.oid = inhrelid,
    LATERAL (SELECT pg_get_expr(child.relpartbound, child.oid) AS bound) AS described
WHERE parent.oid IN (to_regclass('charges'), to_regclass('entries'))
"""
"""`month_after` is the first month that a partition does not have; NULL for the default partition."""
HAS_PARTITION = """
CREATE FUNCTION has_ledger_partition(parent_name text, wanted integer) RETURNS boolean LANGUAGE sql AS $$
    SELECT EXISTS (SELECT 1 FROM ledger_partitions AS known WHERE known.parent = parent_name
        AND wanted >= known.first_month AND wanted < known.month_after) $$
"""
ADD_PARTITION = """
CREATE FUNCTION add_ledger_partition(wanted integer, most_moved bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent_name text;
    default_name text;
    new_name text;
    waiting bigint;
BEGIN
    IF has_ledger_partition('charges', wanted) AND has_ledger_partition('entries', wanted) THEN
        RETURN;
    END IF;
    IF wanted <= to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::integer THEN
        -- A statement that is being planned must not look for a row where it no longer is.
        LOCK TABLE charges, entries IN ACCESS EXCLUSIVE MODE;
    END IF;
    FOREACH parent_name IN ARRAY ARRAY['charges', 'entries'] LOOP
        default_name := parent_name || '_default';
        new_name := parent_name || '_' || wanted;
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', default_name);
        CONTINUE WHEN has_ledger_partition(parent_name, wanted); -- another session has added it meanwhile
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %I WHERE month = $1 LIMIT $2) AS found', default_name)
            INTO waiting USING wanted, most_moved + 1;
        IF waiting > most_moved THEN
            RAISE EXCEPTION 'the default partition of % has more than % rows of month %', parent_name, most_moved,
                wanted;
        END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', new_name, parent_name);
        IF waiting > 0 THEN
            LOCK TABLE charges, entries IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('WITH moved AS (DELETE FROM %I WHERE month = $1 RETURNING *)'
                ' INSERT INTO %I SELECT * FROM moved', default_name, new_name) USING wanted;
        END IF;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent_name, new_name,
            wanted, month_after(wanted));
    END LOOP;
END $$
"""
"""It moves the month's rows out of the default partition, but not more than `most_moved` of each table: it locks them.
It does nothing if the month has a partition.
"""


def upgrade() -> None:
    create_archives()
    if op.get_bind().dialect.name == "sqlite":
        return
    op.execute("LOCK TABLE charges, entries IN ACCESS EXCLUSIVE MODE")
    newest = newest_month()
    for table in PRIMARY_KEYS:
        set_aside(table, "past")
    for table, key in PRIMARY_KEYS.items():
        columns = f"LIKE {table}_past INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
        op.execute(f"CREATE TABLE {table} ({columns}) PARTITION BY RANGE (month)")
        op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
    add_foreign_keys_and_indexes()
    execute_as_it_is(MONTH_AFTER)
    for table in PRIMARY_KEYS:
        if newest is None:
            op.execute(f"DROP TABLE {table}_past")
        else:
            bounds = f"FOR VALUES FROM (MINVALUE) TO ({month_after(newest)})"
            op.execute(f"ALTER TABLE {table} ATTACH PARTITION {table}_past {bounds}")
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    for statement in (PARTITIONS, HAS_PARTITION, ADD_PARTITION):
        execute_as_it_is(statement)


def downgrade() -> None:
    """The rows are copied. Those that were archived do not come back."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute("LOCK TABLE charges, entries IN ACCESS EXCLUSIVE MODE")
        op.execute("DROP FUNCTION add_ledger_partition(integer, bigint)")
        op.execute("DROP FUNCTION has_ledger_partition(text, integer)")
        op.execute("DROP VIEW ledger_partitions")
        op.execute("DROP FUNCTION month_after(integer)")
        for table, key in PRIMARY_KEYS.items():
            old = set_aside(table, "partitioned")
            op.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
            op.execute(f"INSERT INTO {table} SELECT * FROM {old} ORDER BY {key}")
            op.execute(f"DROP TABLE {old}")
            op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})")
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY of_tenant ON {table} USING ({IS_VISIBLE}) WITH CHECK ({IS_VISIBLE})")
        add_foreign_keys_and_indexes()
    op.drop_table("archives")


def create_archives() -> None:
    """`month` is the last month of an archive. Its windows that ended and have no entries left are added up."""
    op.create_table(
        "archives",
        sa.Column("month", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("first_month", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("owner", sa.String(500), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("ledger", sa.String(60), nullable=False),
        sa.Column("manifest_hash", sa.String(64), nullable=True),
        sa.Column("charges", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("entries", sa.BigInteger(), nullable=False, server_default="0"),
        *(sa.Column(f"whole_{name}", sa.BigInteger(), nullable=False, server_default="0") for name in TOTALS),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_ms", sa.BigInteger(), nullable=True),
    )


def newest_month() -> int | None:
    """The newest month of all rows and of now; None if there are no rows."""
    newest = "SELECT greatest((SELECT max(month) FROM charges), (SELECT max(month) FROM entries)) AS month"
    query = f"SELECT greatest(month, {THIS_MONTH}) FROM ({newest}) AS newest WHERE month IS NOT NULL"
    found: int | None = op.get_bind().exec_driver_sql(query).scalar()
    return found


def month_after(month: int) -> int:
    return month + (89 if month % 100 == 12 else 1)


def set_aside(table: str, suffix: str) -> str:
    """Rename a table and its indexes. Returns the new name.

    Row-level security and rights are those of the table in its place.
    """
    op.execute(f"DROP POLICY of_tenant ON {table}")
    op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    execute_as_it_is(
        f"DO $$ DECLARE role text; BEGIN FOR role IN SELECT DISTINCT grantee::regrole::text FROM pg_class,"
        f" aclexplode(relacl) WHERE pg_class.oid = '{table}'::regclass AND grantee NOT IN (0, relowner)"
        f" LOOP EXECUTE 'REVOKE ALL ON {table} FROM ' || role; END LOOP; END $$"
    )
    op.execute(f"ALTER TABLE {table} RENAME TO {table}_{suffix}")
    for index in (f"{table}_pkey", *(name for name, (owner, _) in INDEXES.items() if owner == table)):
        op.execute(f"ALTER INDEX {index} RENAME TO {index}_{suffix}")
    return f"{table}_{suffix}"


def add_foreign_keys_and_indexes() -> None:
    for name, (table, columns, target) in FOREIGN_KEYS.items():
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY ({columns}) REFERENCES {target}")
    for name, (table, definition) in INDEXES.items():
        unique = "UNIQUE " if name in UNIQUE else ""
        op.execute(f"CREATE {unique}INDEX {name} ON {table} {definition}")


def execute_as_it_is(statement: str) -> None:
    """Execute a statement whose colons and percent signs are its own."""
    op.get_bind().exec_driver_sql(statement)
