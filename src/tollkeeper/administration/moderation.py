"""The moderation policy of a tenant: show, set and remove it, and what its rules have found."""

from datetime import date

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.day_ranges import days_between
from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.configuration.moderation import find_policy
from tollkeeper.errors import NotFound
from tollkeeper.moderation.counts import ModerationCount, list_counts
from tollkeeper.moderation.documents import PolicyDocument, read_document, write_document
from tollkeeper.moderation.policy import compile_policy

NO_POLICY = "This tenant has no moderation policy."


async def get_policy(admin: Administrator, tenant_id: int | None) -> ModerationPolicy:
    """The policy of a tenant, by default the administrator's own. Raises NotFound."""
    found = await find_policy(admin.session, await tenants.wanted_tenant(admin, tenant_id))
    if found is None:
        raise NotFound(NO_POLICY)
    return found


async def set_policy(admin: Administrator, tenant_id: int | None, document: PolicyDocument) -> ModerationPolicy:
    """Set the policy of a tenant, by default the administrator's own, in place of any earlier one.

    Raises StepUpRequired, NotFound; InvalidRequest, which names the rule at fault.
    """
    admin.require_fresh_login()
    owner = await tenants.wanted_tenant(admin, tenant_id, to_change=True)
    await compile_policy(document)
    if document.service_account is not None:
        await tenants.require_service_account(admin, owner, document.service_account, "service_account")
    stored = await find_policy(admin.session, owner, to_change=True)
    before = read_document(stored.document) if stored is not None else None
    if stored is None:
        stored = ModerationPolicy(tenant_id=owner, document="", changed_ms=0)
    stored.document, stored.changed_ms = write_document(document), admin.now_ms
    admin.session.add(stored)
    await admin.session.flush()
    await admin.note(
        owner,
        "moderation.set",
        target_of(owner),
        before=record_of(before) if before is not None else None,
        after=record_of(document),
    )
    return stored


async def remove_policy(admin: Administrator, tenant_id: int | None) -> None:
    """Nothing of the tenant's calls is moderated any more. Raises StepUpRequired, NotFound."""
    admin.require_fresh_login()
    stored = await get_policy(admin, tenant_id)
    before = record_of(read_document(stored.document))
    await admin.session.delete(stored)
    await admin.session.flush()
    await admin.note(stored.tenant_id, "moderation.remove", target_of(stored.tenant_id), before=before)


async def counts(
    admin: Administrator, tenant_id: int | None, first: date | None, last: date | None
) -> list[ModerationCount]:
    """What the rules of a tenant, by default the administrator's own, have found on these days (UTC), both included;
    by default in the last 30. Raises NotFound, InvalidRequest.
    """
    owner = await tenants.wanted_tenant(admin, tenant_id)
    return await list_counts(admin.session, admin.scope.narrow(owner), *days_between(admin.now_ms, first, last))


def target_of(tenant_id: int) -> str:
    """How the audit log names a policy."""
    return f"moderation:{tenant_id}"


def record_of(document: PolicyDocument) -> dict[str, object]:
    """A policy for the audit log: what each rule does, not the words and patterns, which may be confidential."""
    rules = {
        rule.name: " ".join([rule.action, *rule.stages, *(["report_only"] if rule.report_only else [])])
        for rule in document.rules
    }
    return {"rules": rules, "service_account": document.service_account}
