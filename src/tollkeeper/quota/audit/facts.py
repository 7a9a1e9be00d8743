"""The columns that are compared. Tuples: a named column of SQLAlchemy's rows takes ten times as long to read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tollkeeper.quota.rules.subjects import OF_EACH, SubjectKind
from tollkeeper.tags import decode_tags, split_tag


class ChargeFacts(NamedTuple):
    """Columns of a charge."""

    tenant_id: int
    month: int
    id: str
    user_id: int
    state: str
    basis: str | None
    closed_by: str | None
    closed_ms: int | None
    overrun: bool
    adjusted: bool
    refunded: bool
    held_tokens: int
    held_micro_usd: int | None
    cost_tokens: int
    cost_micro_usd: int | None
    forgiven_tokens: int
    forgiven_micro_usd: int | None
    weight_milli: int
    price_input: int | None
    price_cached: int | None
    price_output: int | None
    price_cache_write: int | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    checkpoint_input: int
    checkpoint_output: int
    created_ms: int
    error: str | None
    surface: str
    key_id: str | None
    group_id: int | None
    conversation: str | None
    tags: str | None


class EntryFacts(NamedTuple):
    """Columns of an entry of a charge."""

    tenant_id: int
    month: int
    source_id: str
    window_id: int
    sequence: int
    kind: str
    settled: int
    pending: int
    forgiven: int


Values = tuple[Any, ...]
"""A row as the driver returns it."""


class WindowFacts(NamedTuple):
    """What never changes of a window: its time, and whose quota it is of."""

    quota_id: int | None
    starts_ms: int | None
    ends_ms: int | None
    unit: str | None
    tenant_id: int | None
    user_id: int | None
    kind: str | None
    subject: str | None
    value: str = ""


class QuotaFacts(NamedTuple):
    """Columns of a quota that has applied to a call, the time of its first window, since when it applies, and that of
    its removal, if it is removed.
    """

    id: int
    tenant_id: int
    user_id: int | None
    kind: str
    subject: str
    unit: str
    period: str
    since_ms: int
    removed_ms: int | None


WITHOUT_NAME = frozenset({SubjectKind.TENANT.value, SubjectKind.USER.value})
"""The kinds of quotas that apply to all charges of their tenant or user. Their windows have no value."""


def value_of(charge: ChargeFacts, kind: str | None, subject: str | None) -> str | None:
    """The value of a charge in templates of this kind, of the tag that `subject` names; empty for quotas that are none,
    and None if it has no value.
    """
    match kind:
        case SubjectKind.EACH_USER:
            return str(charge.user_id)
        case SubjectKind.EACH_KEY:
            return charge.key_id
        case SubjectKind.EACH_CONVERSATION:
            return charge.conversation
        case SubjectKind.EACH_TAG:
            return next((tag for tag in decode_tags(charge.tags) if split_tag(tag)[0] == subject), None)
    return ""


def counts_for(charge: ChargeFacts, kind: str | None, subject: str | None) -> bool:
    """Whether a quota of the charge's user or tenant, with this kind and name of its owner, applies to the charge."""
    if kind in OF_EACH:
        return value_of(charge, kind, subject) is not None
    if kind == SubjectKind.KEY:
        return charge.key_id == subject
    if kind == SubjectKind.TAG:
        return subject in decode_tags(charge.tags)
    return kind != SubjectKind.GROUP or str(charge.group_id) == subject


class WindowState(NamedTuple):
    """The number of a window's entries, and their sums. `mode` is as in a carry."""

    sequence: int
    granted: int
    settled: int
    pending: int
    forgiven: int
    mode: int = 0


Key = tuple[int, int]
"""Tenant and window id."""
NEW_WINDOW = WindowState(0, 0, 0, 0, 0)
NO_WINDOW = WindowFacts(None, None, None, None, None, None, None, None)

Windows = Mapping[Key, WindowFacts]
"""There may be more than are needed."""
