"""The policies of all tenants, as each process keeps them in memory."""

from collections.abc import Mapping

import msgspec
import structlog

from tollkeeper.errors import InvalidRequest, ModerationUnavailable
from tollkeeper.moderation.documents import read_document
from tollkeeper.moderation.policy import Policy, SurfacePolicy, compile_policy

log = structlog.get_logger("tollkeeper.moderation")


class Policies:
    """The policy of each tenant that has one. A policy is compiled when it is first used, and once, in a thread."""

    def __init__(self) -> None:
        self._documents: Mapping[int, str] = {}
        self._compiled: dict[int, Policy] = {}

    def configure(self, documents: Mapping[int, str]) -> None:
        """Take these stored policies, by tenant, in place of those before."""
        before, self._documents = self._documents, documents
        self._compiled = {
            tenant_id: policy
            for tenant_id, policy in self._compiled.items()
            if documents.get(tenant_id) == before.get(tenant_id)
        }

    def has(self, tenant_id: int) -> bool:
        """Whether a tenant has a policy."""
        return bool(self._documents) and tenant_id in self._documents

    async def of(self, tenant_id: int, *surfaces: str) -> SurfacePolicy | None:
        """What applies to the calls of a tenant on any of these surfaces; None if nothing does.

        Raises ModerationUnavailable for a policy that cannot be read: its calls are refused, not let through.
        """
        if (document := self._documents.get(tenant_id)) is None:
            return None
        policy = self._compiled.get(tenant_id)
        if policy is None:
            policy = await _compile(tenant_id, document)
            if self._documents.get(tenant_id) == document:
                self._compiled[tenant_id] = policy
        return policy.for_surface(*surfaces)


async def _compile(tenant_id: int, document: str) -> Policy:
    try:
        return await compile_policy(read_document(document))
    except (msgspec.MsgspecError, InvalidRequest):
        log.exception("moderation.policy_unreadable", tenant_id=tenant_id)
        raise ModerationUnavailable(
            "The moderation policy of your tenant cannot be read. Its administrator can set it again."
        ) from None
