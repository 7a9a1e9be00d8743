"""PostgreSQL's row-level security: the second wall between tenants, behind the conditions of the queries.

The transactions of a request run as the role of requests. It sees the rows of one tenant, or of all: the policies of
the tables compare a row's tenant with the setting `tollkeeper.tenant`. The owner of the tables sees every row: so do
the ledger, the tasks in the background, the commands, and what is looked up before a login. The role is named after the
owner, because the databases of one PostgreSQL share their roles.
"""

from typing import NamedTuple

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import SessionTransaction
from sqlmodel import Session

ALL_TENANTS = -1
"""The value of the setting that shows the rows of all tenants."""
MAX_ROLE_BYTES = 63
"""PostgreSQL cuts longer names."""
_CHANGED = ("SELECT", "INSERT", "UPDATE", "DELETE")
RIGHTS: dict[str, tuple[str, ...]] = {
    "admin_requests": _CHANGED,
    "alert_rules": _CHANGED,
    "api_key_uses": _CHANGED,
    "api_keys": _CHANGED,
    "audit_heads": ("SELECT", "INSERT", "UPDATE"),
    "audit_lines": ("SELECT", "INSERT"),
    "batches": _CHANGED,
    "call_contents": ("SELECT", "DELETE"),
    "charges": ("SELECT",),
    "conversation_turns": _CHANGED,
    "conversations": _CHANGED,
    "document_chunks": _CHANGED,
    "document_uses": _CHANGED,
    "document_vectors": _CHANGED,
    "documents": _CHANGED,
    "entries": ("SELECT",),
    "file_chunks": _CHANGED,
    "files": _CHANGED,
    "group_members": _CHANGED,
    "idempotency_keys": ("SELECT", "DELETE"),
    "identities": _CHANGED,
    "identity_providers": _CHANGED,
    "jobs": _CHANGED,
    "moderation_counts": ("SELECT",),
    "moderation_policies": _CHANGED,
    "one_time_links": _CHANGED,
    "policy": ("SELECT", "INSERT", "UPDATE"),
    "provider_keys": _CHANGED,
    "quota_alerts": ("SELECT", "DELETE"),
    "quota_requests": _CHANGED,
    "quotas": ("SELECT",),
    "score_counts": ("SELECT",),
    "sessions": _CHANGED,
    "tag_names": ("SELECT", "INSERT", "UPDATE"),
    "tag_values": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "temporary_limits": ("SELECT",),
    "tenant_domains": _CHANGED,
    "tenants": ("SELECT", "INSERT", "UPDATE"),
    "totp_secrets": _CHANGED,
    "usage_buckets": ("SELECT",),
    "usage_changes": ("SELECT",),
    "usage_days": ("SELECT",),
    "usage_statements": ("SELECT",),
    "user_groups": ("SELECT", "INSERT", "UPDATE"),
    "users": ("SELECT", "INSERT", "UPDATE"),
    "webhook_attempts": ("SELECT",),
    "webhook_deliveries": _CHANGED,
    "webhooks": ("SELECT", "INSERT", "UPDATE"),
    "windows": ("SELECT",),
}
"""Tables of tenants, each of which has a policy, and what requests may do there. The ledger is written by its owner."""
RIGHTS_OF_ALL: dict[str, tuple[str, ...]] = {
    "archives": ("SELECT",),
    "configuration": ("SELECT", "UPDATE"),
    "key_tag_secrets": ("SELECT",),
    "plans": _CHANGED,
    "switched_off": _CHANGED,
    "usage_rollup_state": ("SELECT",),
}
"""Tables of the installation. Only operators write to `plans` and `switched_off`, as their policies say."""
EMAILS_FUNCTION = "taken_emails(text[])"
"""It runs with the rights of its owner: an e-mail address is unique among all tenants."""
_SETTINGS = "settings of transactions"
_ROLE = "role of requests"


class RowSecurity(NamedTuple):
    """The role of requests, and why it cannot be used; None if it can."""

    role: str
    problem: str | None


class RequestSession(Session):
    """A session whose transactions are confined to the tenants of a request, once `confine` was called."""


@event.listens_for(RequestSession, "after_begin")
def _send_settings(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Have the settings sent with BEGIN (see `PostgresConnection`), which follows with the first statement."""
    settings = session.info.get(_SETTINGS)
    if settings is not None and not transaction.nested:
        connection.connection.driver_connection.begin_settings = settings  # type: ignore[union-attr]


def forget_settings(connection: Connection) -> None:
    """For the start of each transaction: without this, settings that were not sent would be those of another one."""
    connection.connection.driver_connection.begin_settings = ""  # type: ignore[union-attr]


def session_info(role: str | None) -> dict[str, str | None]:
    """What a session has to know. Without a role there is no second wall: on SQLite, or where `find` sees a problem."""
    return {_ROLE: role}


def confine(session: Session, tenant_id: int | None) -> None:
    """Run the session's transactions as the role of requests, on the rows of one tenant; None is all tenants.

    It takes no round trip. Nothing may have been read or written in the present transaction.
    """
    if session.in_transaction():
        raise RuntimeError("a transaction has begun outside the wall")
    role = session.info.get(_ROLE)
    if role is not None:
        tenant = ALL_TENANTS if tenant_id is None else tenant_id
        session.info[_SETTINGS] = f" SET LOCAL ROLE {_quoted(role)}; SET LOCAL tollkeeper.tenant = '{tenant:d}'"


def find(connection: Connection) -> RowSecurity | None:
    """The role of requests, and whether this connection may use it. None on a schema without policies."""
    found = connection.execute(
        text(
            "SELECT pg_get_userbyid(relowner), pg_get_userbyid(relowner) || '_requests', relrowsecurity FROM pg_class"
            " WHERE oid = to_regclass('charges')"
        )
    ).one_or_none()
    if found is None or not found[2]:
        return None
    owner, role = found[0], found[1]
    return RowSecurity(role, _problem(connection, owner, role))


def set_up(connection: Connection) -> RowSecurity | None:
    """Create the role of requests, with its rights, as far as this connection may. What is there already stays."""
    found = find(connection)
    if found is None or found.problem is None or _is_too_long(found.role):
        return found
    role = _quoted(found.role)
    owner = _quoted(found.role.removesuffix("_requests"))
    if not _exists(connection, found.role):
        _try(connection, f"CREATE ROLE {role} NOLOGIN")
    if not _may_use(connection, found.role):
        _try(connection, f"GRANT {role} TO {owner}")
    if _exists(connection, found.role):
        for statement in _missing_rights(connection, found.role):
            _try(connection, f"GRANT {statement} TO {role}")
    return find(connection)


def hides_rows(connection: Connection) -> bool:
    """Whether the policies apply to this connection itself, so that the ledger would miss rows."""
    query = text("SELECT row_security_active(oid) FROM pg_class WHERE oid = to_regclass('charges')")
    return bool(connection.execute(query).scalar_one_or_none())


def _problem(connection: Connection, owner: str, role: str) -> str | None:
    if _is_too_long(role):
        return f"{owner} is too long a name for an owner: no role can be named {role}."
    attributes = connection.execute(
        text("SELECT rolcanlogin OR rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = :role"), {"role": role}
    ).scalar_one_or_none()
    create = f"Let an administrator of PostgreSQL run: CREATE ROLE {_quoted(role)} NOLOGIN;"
    grant = f"GRANT {_quoted(role)} TO {_quoted(owner)}; then run: tollkeeper migrate"
    if attributes is None:
        return f"There is no role {role}, and the database's user may not create it. {create} {grant}"
    if attributes:
        return f"The role {role} can log in, or bypasses row security. Run: ALTER ROLE {_quoted(role)} NOLOGIN"
    if not _may_use(connection, role):
        return f"The database's user may not take the role {role}. Let an administrator of PostgreSQL run: {grant}"
    if missing := _missing_rights(connection, role):
        return (
            f"The role {role} lacks rights: {'; '.join(missing)}. Run: tollkeeper migrate, as the owner of the tables"
        )
    return None


def _exists(connection: Connection, role: str) -> bool:
    query = text("SELECT count(*) FROM pg_roles WHERE rolname = :role")
    return bool(connection.execute(query, {"role": role}).scalar_one())


def _may_use(connection: Connection, role: str) -> bool:
    """Whether the policies apply to this connection after it has taken the role."""
    try:
        with connection.begin_nested() as savepoint:
            connection.exec_driver_sql(f"SET LOCAL ROLE {_quoted(role)}")
            is_active = hides_rows(connection)
            savepoint.rollback()
    except DBAPIError:
        return False
    return is_active


def _missing_rights(connection: Connection, role: str) -> list[str]:
    """What is to be granted to the role, each as `RIGHT ON OBJECT`."""
    wanted = [(table, right) for table, rights in (RIGHTS | RIGHTS_OF_ALL).items() for right in rights]
    tables = connection.execute(
        text(
            'SELECT table_name, "right" FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[]))'
            ' AS wanted (table_name, "right")'
            ' WHERE NOT has_table_privilege(:role, to_regclass(table_name), "right")'
        ),
        {"role": role, "tables": [table for table, _ in wanted], "rights": [right for _, right in wanted]},
    ).all()
    sequences = connection.execute(
        text(
            "SELECT sequence.oid::regclass::text FROM pg_depend JOIN pg_class AS sequence ON sequence.oid = objid"
            " WHERE refobjid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
            " AND CASE WHEN sequence.relkind = 'S' THEN NOT has_sequence_privilege(:role, sequence.oid, 'USAGE')"
            " ELSE false END"
        ),
        {"role": role, "tables": [table for table, rights in (RIGHTS | RIGHTS_OF_ALL).items() if "INSERT" in rights]},
    ).all()
    others = connection.execute(
        text(
            "SELECT 'USAGE ON SCHEMA ' || quote_ident(current_schema())"
            " WHERE NOT has_schema_privilege(:role, current_schema(), 'USAGE') UNION ALL SELECT"
            f" 'EXECUTE ON FUNCTION {EMAILS_FUNCTION}'"
            f" WHERE NOT has_function_privilege(:role, to_regprocedure('{EMAILS_FUNCTION}'), 'EXECUTE')"
        ),
        {"role": role},
    ).all()
    return [
        *(f"{right} ON {table}" for table, right in tables),
        *(f"USAGE ON SEQUENCE {name}" for (name,) in sequences),
        *(name for (name,) in others),
    ]


def _try(connection: Connection, statement: str) -> None:
    """Run a statement; nothing happens if it is refused: `find` says what is missing then."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except DBAPIError:
        pass


def _is_too_long(role: str) -> bool:
    return len(role.encode()) > MAX_ROLE_BYTES


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
