"""Whose quotas there are, what identifies a quota, and the quota as stored."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Calendar, Period
from tollkeeper.tags import NO_TAGS, Tags, is_tag_name, split_tag

DIGEST_LENGTH = 24
"""Hexadecimal digits that stand for the name of a conversation."""


class SubjectKind(StrEnum):
    """What a quota is of."""

    TENANT = "tenant"
    USER = "user"
    KEY = "key"
    """An API key of a user. Its quota limits further: it does not replace one of the user's own."""
    GROUP = "group"
    """A group of a tenant's users. Its quota limits the calls that count for the group."""
    TAG = "tag"
    """A tag with a value. Its quota limits the tenant's calls that have it."""
    EACH_USER = "each_user"
    """A template: each user of a tenant has this quota, unless one of their own replaces it."""
    EACH_KEY = "each_key"
    """A template: each API key of a tenant's users has this quota, unless one of its own replaces it."""
    EACH_CONVERSATION = "each_conversation"
    """A template: each conversation of a tenant's users has this quota."""
    EACH_TAG = "each_tag"
    """A template: each value of a tag has this quota, unless one of its own replaces it."""


EACH_OF = {
    SubjectKind.USER: SubjectKind.EACH_USER,
    SubjectKind.KEY: SubjectKind.EACH_KEY,
    SubjectKind.TAG: SubjectKind.EACH_TAG,
}
"""The kinds of templates, by the kinds of owners that have their quotas unless one of their own replaces them."""
OF_EACH = {
    SubjectKind.EACH_USER: "user",
    SubjectKind.EACH_KEY: "key",
    SubjectKind.EACH_CONVERSATION: "conversation",
    SubjectKind.EACH_TAG: "tag",
}
"""The kinds of templates, and what each of their values is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a quota: a user or, without `user_id`, a tenant; or what `part` says, with its `name`.

    An API key has its user's `user_id`, and its id as the name. The name of a group is its id, too; that of a tag is
    `name=value`; and that of the template for each value of a tag is the tag's name. `value` is which one of those is
    meant that have the quota of a template (see `templates.py`); without it, the template itself.
    """

    tenant_id: int
    user_id: int | None = None
    part: SubjectKind | None = None
    name: str = ""
    value: str = ""

    @property
    def kind(self) -> SubjectKind:
        """What the owner is."""
        return self.part or (SubjectKind.TENANT if self.user_id is None else SubjectKind.USER)


def value_of(subject: Subject) -> str:
    """The value of a user, an API key or a tag in templates."""
    return str(subject.user_id) if subject.kind is SubjectKind.USER else subject.name


def template_of(subject: Subject) -> Subject | None:
    """The template whose quotas a user, an API key or a tag has, unless its own replace them; None for other owners."""
    each = EACH_OF.get(subject.kind)
    if each is None:
        return None
    return Subject(subject.tenant_id, None, each, split_tag(subject.name)[0] if each is SubjectKind.EACH_TAG else "")


def owner_of(subject: Subject) -> Subject:
    """Who has the quota, if the subject is a value of a template; any other subject itself."""
    if not subject.value:
        return subject
    if subject.kind is SubjectKind.EACH_USER:
        return Subject(subject.tenant_id, int(subject.value))
    kinds = {each: kind for kind, each in EACH_OF.items()}
    return replace(subject, part=kinds.get(subject.kind, subject.kind), name=subject.value, value="")


def parse_template(tenant_id: int, text: str) -> Subject:
    """A template of a tenant: `user`, `key`, `conversation`, or `tag:` with the tag's name. Raises InvalidRequest."""
    each, _, name = text.partition(":")
    kind = next((kind for kind, of_each in OF_EACH.items() if of_each == each), None)
    is_valid = is_tag_name(name) if kind is SubjectKind.EACH_TAG else text == each
    if kind is None or not is_valid:
        raise InvalidRequest("A template is for each user, key or conversation, or for each value of a tag: tag:NAME.")
    return Subject(tenant_id, None, kind, name)


def template_name(subject: Subject) -> str | None:
    """What `parse_template` takes for this template; None for other subjects."""
    each = OF_EACH.get(subject.kind)
    return f"{each}:{subject.name}" if subject.kind is SubjectKind.EACH_TAG else each


def subject_of(tenant_id: int, user_id: int | None, kind: str, name: str) -> Subject:
    """The owner of a quota, from the columns of its row."""
    part = SubjectKind(kind)
    return Subject(tenant_id, user_id, None if part in (SubjectKind.TENANT, SubjectKind.USER) else part, name)


NAME_SUFFIX = {
    Unit.TOKENS: "",
    Unit.MICRO_USD: "-usd",
    Unit.REQUESTS: "-requests",
    Unit.CONCURRENCY: "-concurrency",
}


class QuotaKey(NamedTuple):
    """Identifies a quota by owner, unit and period. There is at most one for each that is not removed."""

    subject: Subject
    unit: Unit
    period: Period


Slot = int | tuple[int, str]
"""What has windows of its own: a quota, by its id; or one value of a template, by the template's id and the value."""


def slot_of(quota_id: int, value: str) -> Slot:
    """The slot of a window, from the columns of its row."""
    return (quota_id, value) if value else quota_id


@dataclass(slots=True)
class QuotaRow:
    """A quota as stored. Only the limit changes, and what becomes of calls without room and of what is unused."""

    id: int
    key: QuotaKey
    granted: int
    calendar: Calendar = UTC_CALENDAR
    """The tenant's, by which windows are opened."""
    report_only: bool = False
    """Whether its next window refuses no call. The current one has a value of its own, which is read under its lock."""
    fallback_model: str | None = None
    """The model that answers the calls for which it has no room."""
    overrides_end_ms: int | None = None
    """When the last of its overrides ends."""
    rollover_cap: int | None = None
    """How much of what is unused in a window the next one gets, at most."""
    removed_ms: int | None = None
    """When this batch removes it."""
    is_new: bool = False
    """Whether this batch has created it."""
    name: str = field(init=False)
    """The name in the API: `user-day`, `tenant-total`, `user-month-usd`, `user-day-requests`, `key-day`,
    `tag-run-day` for each value of the tag `run`.
    """
    is_own_token_quota: bool = field(init=False)
    """Whether it is a user's and counts tokens. A user without one that refuses calls cannot make any."""
    slot: Slot = field(init=False)
    """Identifies the windows that are its own."""

    @property
    def is_held_at_dispatch(self) -> bool:
        """Whether a job holds on it only when it starts."""
        return self.key.period.held_at_dispatch or self.key.unit is Unit.CONCURRENCY

    @property
    def counts_free_calls(self) -> bool:
        """Whether a call counts that is answered without a provider, at no cost."""
        return self.key.unit is Unit.REQUESTS

    def __post_init__(self) -> None:
        subject = self.key.subject
        kind: str = OF_EACH[subject.kind] if subject.value else subject.kind
        is_of_tag = subject.kind in (SubjectKind.TAG, SubjectKind.EACH_TAG)
        owner = f"{kind}-{split_tag(subject.name)[0]}" if is_of_tag else kind
        self.name = f"{owner}-{self.key.period}{NAME_SUFFIX[self.key.unit]}"
        self.is_own_token_quota = self.key.unit is Unit.TOKENS and kind == SubjectKind.USER
        self.slot = slot_of(self.id, subject.value)

    @property
    def value(self) -> str:
        """Which value of a template it is of; empty for the template itself, and for every other quota."""
        return self.key.subject.value

    def of(self, value: str) -> "QuotaRow":
        """The same template for another value; for the same one, this row."""
        if value == self.value:
            return self
        key = self.key._replace(subject=replace(self.key.subject, value=value))
        settings = self.report_only, self.fallback_model, self.overrides_end_ms, self.rollover_cap
        return QuotaRow(self.id, key, self.granted, self.calendar, *settings)


Quotas = tuple[QuotaRow, ...]


def not_replaced(templates: Iterable[QuotaRow], value: str, own: Iterable[QuotaRow]) -> Quotas:
    """The quotas that a value has of these templates, beside its `own`."""
    replaced = {(quota.key.unit, quota.key.period) for quota in own}
    return tuple([one.of(value) for one in templates if (one.key.unit, one.key.period) not in replaced])


class Billing(NamedTuple):
    """What a call counts for besides its user and tenant. It decides which quotas apply, among those of the account."""

    key_id: str | None = None
    group: str | None = None
    """The name of the group; None is the default one."""
    conversation: str | None = None
    """The value of the conversation in templates."""
    tags: Tags = NO_TAGS

    def values(self, user_id: int) -> set[str]:
        """The values of templates that a call of this user may have."""
        of_parts = {value for value in (self.key_id, self.conversation) if value is not None}
        return {str(user_id), *of_parts, *self.tags}


def billing_of(caller: Principal) -> Billing:
    """What the calls of a caller count for."""
    tags, conversation = caller.tags or NO_TAGS, caller.conversation
    if conversation is None:
        return Billing(caller.api_key, caller.group, None, tags)
    return Billing(caller.api_key, caller.group, conversation_value(caller.user_id, conversation), tags)


def conversation_value(user_id: int, conversation: str) -> str:
    """The value of a conversation in templates: each user has names of their own. The ledger is kept for years, so it
    does not have what a user has named a conversation after.
    """
    return f"{user_id}/{sha256(conversation.encode()).hexdigest()[:DIGEST_LENGTH]}"
