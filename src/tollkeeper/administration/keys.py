"""API keys: create, list, change and revoke them; one's own, or those of users that an administrator manages."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import Forbidden, NotFound
from tollkeeper.identity import keys
from tollkeeper.identity.key_uses import last_uses
from tollkeeper.identity.keys import NewKey
from tollkeeper.identity.models import ApiKey, User
from tollkeeper.identity.tag_values import note_value
from tollkeeper.key_limits import NO_LIMITS, KeyLimits, make_limits
from tollkeeper.principal import Access, Role
from tollkeeper.tags import NO_TAGS, Tags, decode_tags, encode_tags, make_tags

NO_SUCH_KEY = "There is no such API key."


class KeyCursor(NamedTuple):
    """The last key of a page. Lists are ordered by time of creation, the newest first, and then by id."""

    created_ms: int
    key_id: str


class ListedKey(NamedTuple):
    """A key, and when it was last used; None if it never was."""

    row: ApiKey
    used_ms: int | None


async def create_key(
    admin: Administrator,
    user: User,
    name: str,
    scopes: Collection[Access],
    expires_ms: int | None = None,
    limits: KeyLimits = NO_LIMITS,
    tags: Tags = NO_TAGS,
) -> NewKey:
    """Add a key to a user, whose calls all have these `tags`. Raises StepUpRequired, InvalidRequest, TagRefused;
    Forbidden for a user of a higher role.
    """
    admin.require_fresh_login()
    _require_rank(admin, user)
    await _note_values(admin, user.tenant_id, tags)
    created = await keys.create(admin.session, user, name, scopes, expires_ms, admin.now_ms, limits, tags)
    after = {"user_id": user.id} | record_of(created.row)
    await admin.note(user.tenant_id, "key.create", target_of(created.row), after=after)
    return created


async def get_user(admin: Administrator, user_id: int) -> User:
    """The user for whom a key is to be made. Raises NotFound for one whom the administrator may not see."""
    query = select(User).where(User.id == user_id, admin.scope.condition(col(User.tenant_id)))
    user = (await admin.session.exec(query)).first()
    if user is None:
        raise NotFound
    return user


async def list_keys(
    admin: Administrator,
    *,
    tenant_id: int | None = None,
    user_id: int | None = None,
    after: KeyCursor | None = None,
    limit: int,
) -> list[ListedKey]:
    """At most `limit` keys that are not revoked, expired ones included, the newest first: those that the administrator
    may see, of one tenant or user if one is given. Raises NotFound for another's tenant.
    """
    scope = admin.scope.narrow(tenant_id)
    query = select(ApiKey).where(scope.condition(col(ApiKey.tenant_id)), col(ApiKey.revoked_ms).is_(None))
    if user_id is not None:
        query = query.where(ApiKey.user_id == user_id)
    if after is not None:
        is_older = col(ApiKey.created_ms) < after.created_ms
        query = query.where(is_older | ((col(ApiKey.created_ms) == after.created_ms) & (ApiKey.id > after.key_id)))
    rows = (await admin.session.exec(query.order_by(col(ApiKey.created_ms).desc(), col(ApiKey.id)).limit(limit))).all()
    uses = await last_uses(admin.session, {row.tenant_id for row in rows}, [row.id for row in rows])
    return [ListedKey(row, uses.get(row.id)) for row in rows]


async def get_key(admin: Administrator, key_id: str, *, to_change: bool = False) -> ListedKey:
    """A key that is not revoked; locked, if it is to be changed. Raises NotFound if the administrator may see none of
    that id; Forbidden for the key of a user of a higher role, if it is to be changed.
    """
    key = await _get_key(admin, key_id, to_change=to_change)
    return ListedKey(key, (await last_uses(admin.session, {key.tenant_id}, [key.id])).get(key.id))


async def change_key(admin: Administrator, listed: ListedKey, changes: dict[str, Any]) -> ListedKey:
    """Change fields of a key that was got to be changed: `name`, `expires_ms`, `models`, `surfaces`, `networks` and
    `tags`. Absent fields stay. A server has the limits of a key in memory for up to half a minute.

    Raises StepUpRequired, since a change can widen what the key reaches; InvalidRequest.
    """
    admin.require_fresh_login()
    key = listed.row
    before, old_name = record_of(key), key.name
    if "name" in changes:
        key.name = keys.check_name(changes["name"])
    if "expires_ms" in changes:
        key.expires_ms = keys.check_expiry(changes["expires_ms"], admin.now_ms)
    present = keys.limits_of(key)
    lists = {name: changes.get(name, getattr(present, name)) for name in ("models", "surfaces", "networks")}
    keys.set_limits(key, make_limits(**lists))
    if "tags" in changes:
        tags = make_tags(changes["tags"] or {})
        await _note_values(admin, key.tenant_id, tags)
        key.tags = encode_tags(tags)
    after = record_of(key)
    changed = [name for name in after if after[name] != before[name]]
    renamed = {"renamed": True} if key.name != old_name else {}
    if changed or renamed:
        await admin.session.flush()
        await admin.note(
            key.tenant_id,
            "key.change",
            target_of(key),
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed} | renamed,
        )
    return listed


async def revoke_key(admin: Administrator, key_id: str, *, user_id: int | None = None) -> None:
    """Refuse a key from the next request on; with `user_id`, only if it is that user's. Calls in flight are settled.

    Raises NotFound; Forbidden for the key of a user of a higher role.
    """
    key = await _get_key(admin, key_id, user_id=user_id)
    key.revoked_ms = admin.now_ms
    await admin.session.flush()
    await admin.note(key.tenant_id, "key.revoke", target_of(key))


async def revoke_keys_of(admin: Administrator, user: User) -> int:
    """Revoke every key of a user. Returns their number. Raises Forbidden for a user of a higher role."""
    _require_rank(admin, user)
    rows = await keys.list_keys(admin.session, user)
    for row in rows:
        await revoke_key(admin, row.id)
    return len(rows)


async def _get_key(admin: Administrator, key_id: str, *, user_id: int | None = None, to_change: bool = True) -> ApiKey:
    """A key; locked, if it is to be changed. Raises NotFound if there is none that the administrator may see; Forbidden
    for one that they may not change.
    """
    query = (
        select(ApiKey, User)
        .join(User, col(User.id) == ApiKey.user_id)
        .where(ApiKey.id == key_id, admin.scope.condition(col(ApiKey.tenant_id)), col(ApiKey.revoked_ms).is_(None))
    )
    if to_change:
        query = query.with_for_update(of=ApiKey)
    if user_id is not None:
        query = query.where(ApiKey.user_id == user_id)
    found = (await admin.session.exec(query)).first() if keys.is_id(key_id) else None
    if found is None:
        raise NotFound(NO_SUCH_KEY)
    if to_change:
        _require_rank(admin, found[1])
    return found[0]


async def _note_values(admin: Administrator, tenant_id: int, tags: Tags) -> None:
    """Have the values of a key's tags known. Raises TagRefused."""
    for tag in tags:
        await note_value(admin.session, tenant_id, tag, admin.now_ms)


def _require_rank(admin: Administrator, user: User) -> None:
    """Raises Forbidden if the user may do more than the administrator: a key acts as its user."""
    if Role(user.role).rank > admin.role.rank:
        raise Forbidden("This user has a higher role than yours.")


def target_of(key: ApiKey) -> str:
    """How the audit log names a key."""
    return f"key:{key.id}"


def record_of(key: ApiKey) -> dict[str, Any]:
    """The fields of a key for the audit log; without its name, which may be a person's and can be erased."""
    limits = keys.limits_of(key)
    return {
        "scopes": key.scopes,
        "expires_ms": key.expires_ms,
        "models": limits.models,
        "surfaces": limits.surfaces,
        "networks": limits.networks,
        "tags": decode_tags(key.tags),
    }
