"""Charges: list them, explain one, refund one. A refund is planned first, as changes of quotas are (see `quotas`)."""

import msgspec

from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import LedgerConflict, LedgerError, TollkeeperError
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Charge, ChargeState, Entry, EntryKind
from tollkeeper.quota.rules.page import Subject

NOT_REFUNDABLE = "Only a settled charge with a cost can be refunded, and only once."


class RefundPlan(msgspec.Struct, frozen=True):
    """A refund that the audit log has."""

    charge_id: str
    tenant_id: int
    reason: str


async def list_charges(admin: Administrator, owner: Subject, *, before: str | None, limit: int) -> list[Charge]:
    """At most `limit` charges of a tenant or of one of its users, the newest first; with `before`, older than this id.

    Raises NotFound for another's tenant, InvalidRequest for a `before` that is no charge's id.
    """
    admin.scope.narrow(owner.tenant_id)
    if owner.user_id is not None:
        return await queries.charges_of(admin.session, owner, before=before, limit=limit)
    return await queries.charges_of_tenant(admin.session, owner.tenant_id, before=before, limit=limit)


async def get_charge(admin: Administrator, charge_id: str) -> Charge:
    """A charge that the administrator may see. Raises NotFound."""
    return await queries.charge(admin.session, charge_id, admin.scope)


async def entries_of(admin: Administrator, charge: Charge) -> list[tuple[Entry, str]]:
    """The ledger's entries of a charge, each with the name of its quota."""
    return await queries.entries_of(admin.session, charge)


async def plan_refund(admin: Administrator, charge_id: str, reason: str) -> RefundPlan:
    """Note a refund in the audit log. The transaction must be committed before the plan is applied.

    Raises Forbidden unless the administrator is an operator, for a refund gives to the tenant's quota, too; NotFound,
    LedgerConflict.
    """
    admin.require_operator()
    charge = await get_charge(admin, charge_id)
    is_settled = charge.state == ChargeState.SETTLED.value
    if not is_settled or charge.refunded or not (charge.cost_tokens or charge.cost_micro_usd):
        raise LedgerConflict(NOT_REFUNDABLE)
    after = {"tokens": charge.cost_tokens, "micro_usd": charge.cost_micro_usd}
    target = f"charge:{charge.id}"
    await admin.note(charge.tenant_id, "charge.refund", target, after=after, reason=reason)
    return RefundPlan(charge.id, charge.tenant_id, reason)


async def apply_refund(admin: Administrator, ledger: Ledger, plan: RefundPlan) -> int:
    """Apply a plan that is committed, once. Returns the tokens that were given back.

    Raises LedgerConflict, which is noted; LedgerUnavailable: then it may have been applied, or not.
    """
    try:
        return await ledger.refund(plan.charge_id, plan.tenant_id, actor=admin.name, reason=plan.reason)
    except LedgerConflict as refusal:
        charge = await get_charge(admin, plan.charge_id)
        if await _was_refunded_by(admin, charge, plan.reason):
            return charge.cost_tokens
        await _note_refusal(admin, plan, refusal)
        raise
    except LedgerError:
        raise
    except TollkeeperError as refusal:
        await _note_refusal(admin, plan, refusal)
        raise


async def _was_refunded_by(admin: Administrator, charge: Charge, reason: str) -> bool:
    """Whether this administrator has refunded a charge for this reason: a plan is applied again."""
    entries = [entry for entry, _ in await entries_of(admin, charge) if entry.kind == EntryKind.REFUND.value]
    return any((entry.actor, entry.reason) == (admin.name, reason) for entry in entries)


async def _note_refusal(admin: Administrator, plan: RefundPlan, refusal: TollkeeperError) -> None:
    target, after = f"charge:{plan.charge_id}", {"error": refusal.code}
    await admin.note(plan.tenant_id, "charge.refund.refused", target, after=after)
    await admin.commit()
