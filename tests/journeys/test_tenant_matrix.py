"""The walls between tenants and between roles, for every route of the running server's OpenAPI document.

Another tenant's id gives the same response as an id that nothing has: for every role and method, in paths, query
strings and bodies. A new route with an id in its path fails here until `support.victims` has a row for it.
"""

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.operations import Operation, operations_of
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.support.victims import (
    NOT_IDS,
    ROWS,
    Actor,
    Sent,
    Tenant,
    add_identity_provider,
    logged_in,
    make_group,
    make_key,
    new_tenant,
    random_like,
    user_of,
)
from tollkeeper.principal import Role

OWN_NAMES = {"session_id", "client_id", "plan_id"}
"""Fields of bodies and queries whose values are in a space of the caller's own, or name nothing of a tenant."""
PUBLIC = {
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/auth-status",
    "/metrics",
    "/auth/login",
    "/auth/refresh",
    "/auth/logout",
    "/auth/reset",
    "/auth/invitations",
    "/auth/oidc",
    "/auth/oidc/{name}/start",
    "/auth/oidc/{name}/callback",
}
"""Routes without a login: what they need is in the request, or they show nothing of a tenant."""
OPERATORS_ONLY = {
    ("POST", "/admin/tenants"),
    ("POST", "/admin/tenants/{tenant_id}/plan"),
    ("POST", "/admin/plans"),
    ("GET", "/admin/plans"),
    ("GET", "/admin/plans/{plan_id}"),
    ("PATCH", "/admin/plans/{plan_id}"),
    ("DELETE", "/admin/plans/{plan_id}"),
    ("GET", "/admin/models"),
    ("GET", "/admin/providers"),
    ("GET", "/admin/tenants/{tenant_id}/domains"),
    ("POST", "/admin/tenants/{tenant_id}/domains"),
    ("DELETE", "/admin/tenants/{tenant_id}/domains/{domain}"),
    ("POST", "/admin/models/{name}/off"),
    ("POST", "/admin/models/{name}/on"),
    ("POST", "/admin/providers/{name}/off"),
    ("POST", "/admin/providers/{name}/on"),
    ("POST", "/admin/charges/{charge_id}/refund"),
    ("GET", "/admin/doctor"),
    ("POST", "/admin/ledger/verify"),
    ("GET", "/admin/ledger/verify"),
    ("POST", "/admin/audit/verify"),
    ("GET", "/admin/audit/verify"),
}
READ_ONLY = {
    "id": "x",
    "tenant_id": 1,
    "role": "operator",
    "token_version": 9,
    "user_id": 1,
    "password_hash": "x",
    "key_hash": "x",
    "key": "x",
    "created_at": "2026-01-01T00:00:00Z",
    "created_ms": 1,
    "revoked_ms": None,
    "disabled_at": None,
    "kind": "service",
    "unknown": True,
}
"""Fields of rows that nobody may set, and one that nothing has."""


async def test_another_tenants_id_in_a_path_is_like_one_that_nothing_has(server: Server) -> None:
    async with new_tenant(server) as victim, new_tenant(server) as attacker, new_admin(server, Role.OPERATOR) as boss:
        owners = victim.actors() | {"operator": logged_in("operator", boss)}
        for operation in await operations_of(victim.member):
            if not operation.has_path_parameter or operation.path in NOT_IDS:
                continue
            assert operation.path in ROWS, f"{operation} has an id in its path: give it a row in support/victims.py"
            row = ROWS[operation.path]
            ids = await row.make(victim)
            attackers = [*attacker.actors().values()]
            if not operation.path.startswith("/admin/"):
                attackers.append(owners["operator"])
            for actor in attackers:
                expected = _expected(actor, operation)
                sent = await _send(actor, operation, ids)
                absent = await _send(actor, operation, random_like(ids))
                assert (sent, sent.status) == (absent, expected), (operation, actor.name)
            is_for_operators = (operation.method, operation.path) in OPERATORS_ONLY
            owner = owners["operator" if is_for_operators else row.owner]
            control = await _send(owner, operation, ids)
            assert control.status < 300, (operation, "its owner reaches it, after all these requests", control)


def _expected(actor: Actor, operation: Operation) -> int:
    """The status for an id that nothing has, or that is another tenant's."""
    if operation.path.startswith("/admin/"):
        is_allowed = actor.name == "tenant_admin" and (operation.method, operation.path) not in OPERATORS_ONLY
        return 404 if is_allowed else 403
    return 403 if actor.name == "API key" and operation.path.startswith("/auth/") else 404


async def _send(actor: Actor, operation: Operation, ids: Mapping[str, Any]) -> Sent:
    document = ROWS[operation.path].document if operation.example is not None else None
    return await actor.send(operation.method, operation.path.format(**ids), document or operation.example)


async def test_another_tenants_id_in_a_query_or_body_is_like_one_that_nothing_has(server: Server) -> None:
    async with new_tenant(server) as victim, new_tenant(server) as attacker:
        ids = {**await make_key(victim), **await make_group(victim), "tenant_id": victim.id}
        ids["user_id"] = await user_of(victim)
        await add_identity_provider(victim)
        made = await victim.admin.send("PUT", "/admin/provider-keys/openai", {"key": "sk-of-the-tenant-0123456789"})
        assert made.status in (200, 201), made
        assert (await victim.admin.send("PUT", "/admin/moderation", {"rules": []})).status == 200
        checked = set()
        for operation in await operations_of(victim.member):
            if not operation.path.startswith(("/admin/", "/auth/", "/me")):
                continue
            for field in sorted(operation.query_fields | operation.body_fields):
                if not field.endswith("_id") or field in OWN_NAMES:
                    continue
                assert field in ids, f"{operation} takes {field}: give the victim one"
                for actor in attacker.actors().values():
                    sent = await _send_field(actor, operation, field, ids[field])
                    absent = await _send_field(actor, operation, field, *random_like({field: ids[field]}).values())
                    assert sent == absent, (operation, field, actor.name)
                    assert sent.status in (403, 404, 422) or (operation.method == "GET" and sent.body["data"] == []), (
                        operation,
                        field,
                        actor.name,
                        sent,
                    )
                control = await _send_field(victim.actors()["tenant_admin"], operation, field, ids[field])
                assert control.status not in (401, 404), (operation, field, control)
                checked.add((operation.method, operation.path, field))
        assert {("GET", "/admin/keys", "user_id"), ("POST", "/admin/keys", "user_id")} <= checked
        assert ("GET", "/admin/audit", "tenant_id") in checked


async def _send_field(actor: Actor, operation: Operation, field: str, value: Any) -> Sent:
    path = operation.path.format_map({"provider": "openai", "name": "x", **random_like({"user_id": 1, "tenant_id": 1})})
    if field in operation.query_fields:
        return await actor.send(operation.method, path, operation.example, {field: value})
    return await actor.send(operation.method, path, (operation.example or {}) | {field: value})


@pytest.mark.prove_only_on_postgres
async def test_every_route_requires_its_role(server: Server) -> None:
    """Bodies have an unknown field, so that a request that passes the check of its role changes nothing."""
    async with new_tenant(server) as tenant, new_admin(server, Role.OPERATOR) as boss:
        actors = tenant.actors() | {"operator": logged_in("operator", boss)}
        nobody = Actor("nobody", tenant.member.http, {})
        for operation in await operations_of(tenant.member):
            for actor in (nobody, *actors.values()):
                sent = await _probe(actor, operation)
                wanted = _wanted(actor, operation)
                if _is_public(operation):
                    assert sent.status not in (403, 500, 502, 503), (operation, actor.name, sent)
                elif wanted is None:
                    assert sent.status not in (401, 403), (operation, actor.name, sent)
                    assert sent.status < 500, (operation, actor.name, sent)
                else:
                    assert sent.status == wanted, (operation, actor.name, sent)


async def _probe(actor: Actor, operation: Operation) -> Sent:
    absent: dict[str, Any] = {"user_id": 2_000_000_001, "tenant_id": 2_000_000_001, "model_id": "m", "asset": "a.js"}
    path = operation.path
    for name in ("user_id", "tenant_id", "model_id", "asset"):
        path = path.replace(f"{{{name}}}", str(absent[name]))
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        path = f"{path[:start]}absent-{secrets.token_hex(4)}{path[end + 1 :]}"
    document = {"no_such_field": True} if operation.method in ("POST", "PUT", "PATCH") else None
    return await actor.send(operation.method, path, document)


def _is_public(operation: Operation) -> bool:
    return operation.path in PUBLIC or operation.path.startswith(("/docs", "/redoc", "/openapi.json"))


def _wanted(actor: Actor, operation: Operation) -> int | None:
    """The status of a refusal; None if the caller may use the route."""
    if actor.name == "nobody":
        return 401
    if operation.path.startswith("/admin/"):
        if (operation.method, operation.path) in OPERATORS_ONLY:
            return None if actor.name == "operator" else 403
        return None if actor.name in ("tenant_admin", "operator") else 403
    return 403 if actor.name == "API key" and operation.path.startswith("/auth/") else None


@pytest.mark.prove_only_on_postgres
async def test_no_body_sets_a_field_that_is_not_its_own(server: Server) -> None:
    async with new_tenant(server) as tenant, new_admin(server, Role.OPERATOR) as boss:
        operator, member = logged_in("operator", boss), tenant.actors()["member"]
        for operation in await operations_of(tenant.member):
            if operation.example is None or not operation.is_native:
                continue
            path = operation.path.replace("{plan_id}", "1")  # plans belong to no tenant
            if operation.has_path_parameter and path in ROWS:
                path = path.format(**await ROWS[path].make(tenant))
            for field in READ_ONLY.keys() - operation.body_fields:
                actor = operator if operation.path.startswith("/admin/") else member
                document = operation.example | {field: READ_ONLY[field]}
                sent = await actor.send(operation.method, path, document)
                assert sent.status == 422, (operation, field, sent)
                assert sent.body["code"] == "invalid_request", (operation, field, sent)


async def test_nobody_raises_their_own_rights(server: Server) -> None:
    async with AsyncExitStack() as stack:
        tenant = await stack.enter_async_context(new_tenant(server))
        other = await stack.enter_async_context(new_user(server))
        member, key, admin = tenant.actors().values()
        own = f"/admin/users/{tenant.member.principal.user_id}"
        paths = {operation.path for operation in await operations_of(tenant.member)}

        narrow = logged_in("narrow key", await tenant.member.with_api_key(scopes=["me"]))
        for scopes in (["me"], ["ai", "me"]):
            for caller in (key, narrow):
                assert (await caller.send("POST", "/auth/keys", {"name": "x", "scopes": scopes})).status == 403
        for scopes in (["admin"], ["keys"], []):
            assert (await member.send("POST", "/auth/keys", {"name": "x", "scopes": scopes})).status == 422
        assert (await narrow.send("POST", "/ai/query", {"prompt": "x"})).status == 403
        for caller in (member, key):
            assert (await caller.send("GET", "/admin/tenants")).status == 403
        of_admin = await tenant.admin.post("/auth/keys", {"name": "x"})
        administering = Actor("key of an administrator", tenant.member.http, {"x-api-key": of_admin.body["key"]})
        for path in ("/admin/tenants", "/admin/keys", "/admin/audit", "/auth/keys"):
            assert (await administering.send("GET", path)).status == 403, path

        if "/admin/users" in paths:
            await _check_roles(member, admin, own, tenant, other.principal.tenant_id)


async def _check_roles(member: Actor, admin: Actor, own: str, tenant: Tenant, other_tenant_id: int) -> None:
    for role in ("tenant_admin", "operator"):
        assert (await member.send("PATCH", own, {"role": role})).status == 403
    assert (await admin.send("PATCH", own, {"tenant_id": other_tenant_id})).status == 422
    assert (await admin.send("PATCH", own, {"role": "operator"})).status == 403
    themselves = f"/admin/users/{_user_id(tenant.admin)}"
    assert (await admin.send("PATCH", themselves, {"role": "operator"})).status == 403
    email = f"{secrets.token_hex(8)}@example.com"
    for path in ("/admin/users", "/admin/invitations"):
        assert (await admin.send("POST", path, {"email": email, "role": "operator"})).status == 403, path
        refused = await admin.send("POST", path, {"email": email, "tenant_id": other_tenant_id})
        assert refused.status in (403, 404, 422), path
    assert (await admin.send("GET", own)).body["role"] == "member"


def _user_id(admin: Admin) -> int:
    return admin.principal.user_id
