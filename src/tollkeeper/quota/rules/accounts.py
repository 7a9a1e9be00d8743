"""A user's access, and the quotas that apply to the user's calls.

A template is a quota that each user, API key, conversation or value of a tag of a tenant has. A user's, a key's or a
value's own quota of the same unit and period replaces it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tollkeeper.errors import NotInGroup
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.subjects import Billing, QuotaRow, Quotas, SubjectKind, not_replaced
from tollkeeper.quota.rules.tag_rules import UNTAGGED, TagRules

_ALWAYS = (SubjectKind.TENANT, SubjectKind.USER)
PartQuotas = Mapping[tuple[SubjectKind, str], Quotas]
"""Quotas that apply to some of a user's calls, by the kind and the name of their owner."""
MAX_INSTANCES = 200
"""Values of templates whose quotas an account remembers."""
NO_PARTS: PartQuotas = MappingProxyType({})
NO_GROUPS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Account:
    """A user's access, and the quotas of the user and of what the user's calls may count for."""

    tenant_id: int
    active: bool
    token_version: int
    quotas: Quotas
    """The user's own and the tenant's, which apply to every call."""
    api_keys: Mapping[str, int | None]
    """The ids of the keys that are not revoked, each with the time of its expiry in ms, if it has one."""
    revoked_sessions: frozenset[str] = frozenset()
    """The ids of the sessions that are revoked, as long as access tokens of theirs have not expired."""
    parts: PartQuotas = field(default_factory=lambda: NO_PARTS)
    groups: Mapping[str, int] = field(default_factory=lambda: NO_GROUPS)
    """The ids of the groups that the user is a member of, by their names."""
    default_group: int | None = None
    """The id of the group that calls count for which name none."""
    tags: TagRules = UNTAGGED
    """The tags of the tenant."""
    instances: dict[tuple[SubjectKind, str], Quotas] = field(default_factory=dict, compare=False)
    """The quotas of some values of templates, as they were made."""

    def accepts(self, caller: Principal, now_ms: int) -> bool:
        """Whether the user and the tenant are active, and the caller's credential is valid."""
        expires_ms = self.api_keys.get(caller.api_key, 0) if caller.api_key is not None else None
        is_latest = caller.api_key is not None or self.token_version == caller.token_version
        is_valid = is_latest and (expires_ms is None or now_ms < expires_ms)
        is_valid = is_valid and caller.session not in self.revoked_sessions
        return is_valid and self.active and self.tenant_id == caller.tenant_id

    def require_group(self, group: str | None) -> None:
        """Raise NotInGroup unless the user is a member of the group that a call names."""
        if group is not None and group not in self.groups:
            raise NotInGroup(f"You are not a member of a group {group}. Name one of yours, or none.")

    def group_of(self, billing: Billing) -> int | None:
        """The id of the group that a call counts for. None for a group of which the user is no member any more."""
        return self.default_group if billing.group is None else self.groups.get(billing.group)

    def quotas_of(self, billing: Billing) -> Quotas:
        """Every quota that applies to a call."""
        quotas = self.quotas
        for tag in billing.tags:
            quotas += self.tags.quotas_of(tag)
        if not self.parts:
            return quotas
        if billing.key_id is not None:
            own = self.parts.get((SubjectKind.KEY, billing.key_id), ())
            quotas += own + self._of_each(SubjectKind.EACH_KEY, billing.key_id, own)
        if (group_id := self.group_of(billing)) is not None:
            quotas += self.parts.get((SubjectKind.GROUP, str(group_id)), ())
        if billing.conversation is not None:
            quotas += self._of_each(SubjectKind.EACH_CONVERSATION, billing.conversation)
        return quotas

    def _of_each(self, kind: SubjectKind, value: str, own: Quotas = ()) -> Quotas:
        """The quotas that a value has of the templates of this kind, beside its own."""
        templates = self.parts.get((kind, ""))
        if templates is None:
            return ()
        made = self.instances.get((kind, value))
        if made is None:
            if len(self.instances) >= MAX_INSTANCES:
                self.instances.clear()
            made = self.instances[kind, value] = not_replaced(templates, value, own)
        return made

    def all_quotas(self) -> Iterator[QuotaRow]:
        """Every quota that may apply to a call of the user, but those of tags."""
        yield from self.quotas
        for quotas in self.parts.values():
            yield from quotas


def sort_quotas(user_id: int, quotas: Iterable[QuotaRow]) -> tuple[Quotas, PartQuotas]:
    """The quotas of a user's account: those that always apply, and the others."""
    always: list[QuotaRow] = []
    parts: dict[tuple[SubjectKind, str], Quotas] = {}
    for quota in quotas:
        subject = quota.key.subject
        if subject.kind in _ALWAYS:
            always.append(quota)
        else:
            owner = subject.kind, subject.name
            parts[owner] = (*parts.get(owner, ()), quota)
    if templates := parts.pop((SubjectKind.EACH_USER, ""), ()):
        own = [quota for quota in always if quota.key.subject.kind is SubjectKind.USER]
        always += not_replaced(templates, str(user_id), own)
    return tuple(always), parts or NO_PARTS
