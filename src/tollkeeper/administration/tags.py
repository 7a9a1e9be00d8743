"""Tags: declare, list, change and close those that the calls of a tenant may have."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlmodel import col, delete, func, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tenants import wanted_tenant
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity.tag_models import TagName, TagValue
from tollkeeper.identity.tag_values import note_value
from tollkeeper.quota.rules.models import Quota
from tollkeeper.quota.rules.subjects import Subject, SubjectKind
from tollkeeper.tags import make_tags, split_tag

MAX_TAGS_PER_TENANT = 20
MAX_NAMES_PER_TENANT = 200
"""With those of closed tags, whose values, quotas and charges stay."""
MAX_ALLOWED_VALUES = 1_000
"""The ledger reads the allowed values of all tags of a tenant."""
MAX_KNOWN_VALUES = 1_000_000
DEFAULT_MAX_VALUES = 1_000
MAX_TAGS_WITH_QUOTAS = 1_000
"""The ledger reads all quotas of a tenant's tags."""


class TagTerms(NamedTuple):
    """`values` are those that a tag may have; None: calls bring any, up to `max_values`."""

    values: Sequence[str] | None = None
    max_values: int = DEFAULT_MAX_VALUES
    is_required: bool = False


async def declare_tag(admin: Administrator, tenant_id: int | None, name: str, terms: TagTerms) -> TagName:
    """Declare a tag of a tenant, by default the administrator's own. One that was closed gets these terms.

    Raises InvalidRequest for a name that is taken, or if the tenant has too many; NotFound for a tenant that the
    administrator may not see; TagRefused for a name or a value that none can have.
    """
    owner = await wanted_tenant(admin, tenant_id, to_change=True)
    make_tags({name: "1"})
    declared = (await admin.session.exec(select(TagName).where(TagName.tenant_id == owner))).all()
    tag = next((one for one in declared if one.name == name), None)
    if tag is not None and tag.closed_ms is None:
        raise InvalidRequest("The tenant has a tag of this name. Change it: PUT /admin/tags/ID.", parameter="name")
    if sum(one.closed_ms is None for one in declared) >= MAX_TAGS_PER_TENANT:
        raise InvalidRequest(f"A tenant has at most {MAX_TAGS_PER_TENANT} tags. Close one first.")
    if tag is None:
        if len(declared) >= MAX_NAMES_PER_TENANT:
            raise InvalidRequest(f"A tenant has had {MAX_NAMES_PER_TENANT} tags, the most: declare a closed one again.")
        unlimited = terms.values is None
        tag = TagName(tenant_id=owner, name=name, any_value=unlimited, max_values=0, created_ms=admin.now_ms)
        admin.session.add(tag)
    tag.closed_ms = None
    await _set_terms(admin, tag, terms)
    await admin.note(owner, "tag.declare", target_of(tag), after={"name": name} | _record(terms))
    return tag


async def list_tags(admin: Administrator, tenant_id: int | None, *, after: int, limit: int) -> list[TagName]:
    """At most `limit` tags that are not closed, with ids above `after`: of a tenant, or of all that the administrator
    may see. Raises NotFound for a tenant that the administrator may not see.
    """
    if tenant_id is not None:
        await wanted_tenant(admin, tenant_id)
    is_visible = admin.scope.narrow(tenant_id).condition(col(TagName.tenant_id))
    query = select(TagName).where(is_visible, col(TagName.id) > after, col(TagName.closed_ms).is_(None))
    return list((await admin.session.exec(query.order_by(col(TagName.id)).limit(limit))).all())


async def get_tag(admin: Administrator, tag_id: int, *, to_change: bool = False) -> TagName:
    """A tag that is not closed; locked, if it is to be changed. Raises NotFound if the administrator may see none of
    that id.
    """
    is_visible = admin.scope.condition(col(TagName.tenant_id))
    query = select(TagName).where(TagName.id == tag_id, is_visible, col(TagName.closed_ms).is_(None))
    tag = (await admin.session.exec(query.with_for_update() if to_change else query)).first()
    if tag is None:
        raise NotFound
    return tag


async def find_tag(admin: Administrator, tenant_id: int, name: str) -> TagName:
    """The tag of a tenant with this name, unless it is closed. Raises NotFound."""
    is_it = TagName.tenant_id == tenant_id, TagName.name == name, col(TagName.closed_ms).is_(None)
    tag = (await admin.session.exec(select(TagName).where(*is_it))).first()
    if tag is None:
        raise NotFound(f"The tenant has no tag {name}.")
    return tag


async def list_values(admin: Administrator, tag: TagName, *, after: str, limit: int) -> list[str]:
    """At most `limit` values of a tag that sort after `after`."""
    of_tag = TagValue.tenant_id == tag.tenant_id, TagValue.tag_id == tag.id, col(TagValue.value) > after
    query = select(TagValue.value).where(*of_tag).order_by(col(TagValue.value)).limit(limit)
    return list((await admin.session.exec(query)).all())


async def change_tag(admin: Administrator, tag_id: int, terms: TagTerms) -> TagName:
    """Replace the terms of a tag: from the next reserve on. Calls in flight are settled. Raises NotFound, TagRefused,
    InvalidRequest.
    """
    tag = await get_tag(admin, tag_id, to_change=True)
    await _set_terms(admin, tag, terms)
    await admin.note(tag.tenant_id, "tag.change", target_of(tag), after=_record(terms))
    return tag


async def close_tag(admin: Administrator, tag_id: int) -> None:
    """Refuse calls with this tag from the next reserve on. Its quotas and charges stay. Raises NotFound."""
    tag = await get_tag(admin, tag_id, to_change=True)
    tag.closed_ms = admin.now_ms
    await admin.session.flush()
    await admin.note(tag.tenant_id, "tag.close", target_of(tag))


async def prepare_quota(admin: Administrator, subject: Subject) -> None:
    """What the quota of a tag needs: its value is known, or, of a template, its name declared. Nothing for others.

    Raises TagRefused, NotFound; InvalidRequest if too many tags have quotas.
    """
    if subject.kind is SubjectKind.TAG:
        await _require_room_for_quota(admin, subject.tenant_id, subject.name)
    elif subject.kind is SubjectKind.EACH_TAG:
        await find_tag(admin, subject.tenant_id, subject.name)


async def _require_room_for_quota(admin: Administrator, tenant_id: int, tag: str) -> None:
    await note_value(admin.session, tenant_id, tag, admin.now_ms)
    of_tags = Quota.tenant_id == tenant_id, col(Quota.user_id).is_(None), Quota.kind == SubjectKind.TAG.value
    others = select(func.count(func.distinct(Quota.subject))).where(*of_tags, Quota.subject != tag)
    others = others.where(col(Quota.removed_ms).is_(None))
    if (await admin.session.exec(others)).one() >= MAX_TAGS_WITH_QUOTAS:
        raise InvalidRequest(f"At most {MAX_TAGS_WITH_QUOTAS} tags of a tenant have quotas.")


async def _set_terms(admin: Administrator, tag: TagName, terms: TagTerms) -> None:
    values = sorted(set(terms.values)) if terms.values is not None else None
    if values is not None and not 0 < len(values) <= MAX_ALLOWED_VALUES:
        raise InvalidRequest(f"A tag has 1 to {MAX_ALLOWED_VALUES} values, or any.", parameter="values")
    for value in values or ():
        make_tags({tag.name: value})
    tag.any_value, tag.is_required, tag.version = values is None, terms.is_required, tag.version + 1
    tag.max_values = terms.max_values if values is None else len(values)
    await admin.session.flush()
    if values is not None:
        await admin.session.exec(delete(TagValue).where(col(TagValue.tag_id) == tag.id))
        tag_id, now_ms = tag.id or 0, admin.now_ms
        admin.session.add_all(
            TagValue(tenant_id=tag.tenant_id, tag_id=tag_id, value=value, created_ms=now_ms) for value in values
        )
        tag.known_values = len(values)
        await admin.session.flush()


def _record(terms: TagTerms) -> dict[str, object]:
    """For the audit log: without the values, which can be many."""
    number = len(terms.values) if terms.values is not None else None
    return {"values": number, "max_values": terms.max_values, "required": terms.is_required}


def target_of(tag: TagName) -> str:
    """How the audit log names a tag."""
    return f"tag:{tag.name}"


def label_of(tag: str) -> str:
    """How people read a tag with its value."""
    return "tag {} = {}".format(*split_tag(tag))
