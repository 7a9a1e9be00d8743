"""Tenant scope cannot be forgotten: a function that queries rows of tenants takes whose rows as a required argument."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "tollkeeper"
FOLDERS = ("identity", "conversations", "configuration", "audit_log", "administration", "retrieval", "documents")
FILES = (
    *(path for folder in FOLDERS for path in sorted((PACKAGE / folder).rglob("*.py"))),
    PACKAGE / "quota" / "queries.py",
)
NOT_OF_TENANTS = {"KeyTagSecret", "WrappedKey", "SwitchedOff", "ConfigurationVersion", "UsedOidcState", "TenantScope"}
"""Tables of the installation."""
SCOPES = {"Visible", "TenantScope", "Administrator", "Principal", "Subject", "Act"}
"""Types of arguments that say whose rows are meant."""
ROWS = {
    "Document",
    "DocumentUse",
    "Tenant",
    "User",
    "ApiKey",
    "Session",
    "Charge",
    "IdentityProvider",
    "OneTimeLink",
    "QuotaRow",
}
"""Rows that were found with a scope: what is queried belongs to them."""
SCOPE_NAMES = {"tenant_id", "tenant_ids", "scope", "owner", "user_id"}
QUERIES = {"select", "update", "delete", "exists"}
BEFORE_LOGIN = "before authentication: what was sent is the secret, or finds the tenant"
OF_COMMANDS = "of commands, which have the right to all tenants"
OF_THE_INSTALLATION = "the task in the background works on the documents of all tenants"
EXCEPTIONS = {
    "administration.default_quotas.missing_limits": "the ids of users whom the caller has just created",
    "administration.links.reset_password": BEFORE_LOGIN,
    "audit_log.head_log.HeadLog._read": "the server logs the heads of all chains",
    "documents.repository.claim": OF_THE_INSTALLATION,
    "documents.repository.count_by_status": OF_THE_INSTALLATION,
    "documents.repository.delete_old_uses": OF_THE_INSTALLATION,
    "documents.repository.queue_outdated": OF_THE_INSTALLATION,
    "identity.accounts.get_tenant_by_name": OF_COMMANDS,
    "identity.accounts.get_user_by_email": OF_COMMANDS,
    "identity.accounts.has_users": OF_COMMANDS,
    "identity.accounts.list_tenants": OF_COMMANDS,
    "identity.accounts.list_users": OF_COMMANDS,
    "identity.accounts.login": BEFORE_LOGIN,
    "identity.accounts.taken_emails": "e-mail addresses are unique in the installation",
    "identity.keys.ApiKeys._query": BEFORE_LOGIN,
    "identity.links.consume": BEFORE_LOGIN,
    "identity.links.find": BEFORE_LOGIN,
    "identity.logins.Logins.log_in": BEFORE_LOGIN,
    "identity.providers.find_enabled_provider": BEFORE_LOGIN,
    "identity.providers.find_enabled_provider_of": BEFORE_LOGIN,
    "identity.sessions.Sessions._read": BEFORE_LOGIN,
}


def tables() -> set[str]:
    """The classes of tables that have a column `tenant_id`, and the tenants themselves."""
    found = {"Tenant"}
    for path in PACKAGE.rglob("models.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(keyword.arg == "table" for keyword in node.keywords):
                fields = {
                    item.target.id
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                }
                if "tenant_id" in fields:
                    found.add(node.name)
    return found - NOT_OF_TENANTS


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(path: Path) -> Iterator[tuple[str, Function, bool]]:
    """The functions and methods of a module, and whether the object of a method was made with a scope."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function):
            yield node.name, node, False
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, Function)]
            is_scoped = any(method.name == "__init__" and takes_a_scope(method) for method in methods)
            yield from ((f"{node.name}.{method.name}", method, is_scoped) for method in methods)


def queried_tables(function: Function, of_tenants: set[str]) -> set[str]:
    """The tables of tenants that the function selects, changes, deletes from, or gets a row of by its key."""
    found: set[str] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in QUERIES | {"get", "get_one"}:
            continue
        for argument in node.args:
            found |= {one.id for one in ast.walk(argument) if isinstance(one, ast.Name) and one.id in of_tenants}
    return found


def takes_a_scope(function: Function) -> bool:
    """Whether an argument without a default says whose rows are meant."""
    arguments = function.args
    required = arguments.args[: len(arguments.args) - len(arguments.defaults)]
    required += [
        one for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    return any(
        argument.arg in SCOPE_NAMES
        or (argument.annotation is not None and _names(argument.annotation) & (SCOPES | ROWS))
        for argument in required
    )


def _names(annotation: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def unscoped() -> set[str]:
    of_tenants = tables()
    return {
        f"{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}.{name}"
        for path in FILES
        for name, function, is_scoped in functions_of(path)
        if queried_tables(function, of_tenants) and not is_scoped and not takes_a_scope(function)
    }


def test_every_query_of_tenants_rows_takes_whose_rows() -> None:
    assert unscoped() == EXCEPTIONS.keys()


def test_a_query_without_a_scope_is_noticed() -> None:
    source = """
async def names(session, tenant: Tenant | None = None):
    return (await session.exec(select(User.email))).all()
"""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.AsyncFunctionDef)
    assert queried_tables(function, tables()) == {"User"}
    assert not takes_a_scope(function)
