"""API keys: programs authenticate with them as a user.

A key is shown once, stored as a hash, confined to its scopes and limits, and refused from the next request on once it
is revoked.
"""

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound, Overloaded, Unauthenticated
from tollkeeper.identity import key_tags
from tollkeeper.identity.accounts import principal_of
from tollkeeper.identity.key_tags import RANDOM_LENGTH, TAGGED_PREFIX, KeyTags
from tollkeeper.identity.key_uses import KeyUses
from tollkeeper.identity.models import ApiKey, Tenant, User
from tollkeeper.key_limits import NO_LIMITS, KeyLimits
from tollkeeper.principal import Access, Principal
from tollkeeper.tags import NO_TAGS, Tags, decode_tags, encode_tags
from tollkeeper.tenant_scope import TenantScope

PREFIX = "tk-"
"""Identifies an API key of this product, for people and for scanners for leaked secrets."""
VISIBLE_CHARACTERS = 13
"""The beginning of a key is stored and shown, so that its owner recognises it."""
UNTAGGED_LENGTH = len(PREFIX) + RANDOM_LENGTH
"""Of keys from before version 0005 of the schema, which are valid until they expire or are revoked."""
MAX_NAME_LENGTH = 100
MAX_KEYS_PER_USER = 50
"""The ledger reads all keys of a user with the user's row."""
GRANTABLE_SCOPES = (Access.AI, Access.ME)
MAX_LIFETIME_DAYS = 3650
"""An expiry is at most this far in the future."""
CACHED_KEY_MS = 30_000
REFUSED_KEY_MS = 5_000
MAX_CACHED_KEYS = 10_000
"""Of each kind: valid keys, and refused ones."""
MAX_CONCURRENT_LOOKUPS = 4
"""Of untagged keys: requests with wrong keys must not occupy all connections to the database, or delay other keys."""
MAX_PENDING_LOOKUPS = 200
"""Running and waiting ones."""

DAY_MS = 86_400_000

_ID = re.compile(r"key_[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created, and its secret, which is not stored."""

    row: ApiKey
    secret: str = field(repr=False)


class _CachedKey(NamedTuple):
    principal: Principal
    scopes: frozenset[str]
    expires_ms: int | None
    cached_until_ms: int


class ApiKeys:
    """Verifies API keys.

    A valid key is cached for CACHED_KEY_MS, a refused one for REFUSED_KEY_MS. This is safe for the same reason as with
    tokens: the reserve transaction and `load_account` check that the key, its user and its tenant are still valid.
    A change of the key's models, surfaces, networks and tags takes effect when the cached key has expired.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.uses = KeyUses(database, clock)
        self._cached: OrderedDict[str, _CachedKey] = OrderedDict()
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[_CachedKey]] = {}
        self._lookup_slots = asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS)
        self._untagged_lookups = 0
        self._tags = KeyTags(database, clock)

    async def load(self) -> None:
        """Read the secrets of the tags. Raises DatabaseUnavailable."""
        await self._tags.load()

    async def verify(self, secret: str, access: Access, address: str) -> Principal:
        """Returns the principal of a key whose scopes include `access`, and whose networks the client's address.

        Raises Unauthenticated, Forbidden (outside of the key's scopes or networks), DatabaseUnavailable, Overloaded.
        """
        tagged = key_tags.is_tagged(secret)
        if not tagged and len(secret) != UNTAGGED_LENGTH:
            raise Unauthenticated
        key_hash, now_ms = _hash(secret), self._clock.now_ms()
        cached = self._cached.get(key_hash)
        if cached is None or cached.cached_until_ms <= now_ms:
            if self._refused.get(key_hash, 0) > now_ms:
                raise Unauthenticated
            if tagged and not await self._tags.is_genuine(secret):
                raise Unauthenticated
            cached = await self._look_up(key_hash, tagged=tagged)
        if cached.expires_ms is not None and cached.expires_ms <= now_ms:
            raise Unauthenticated
        if access not in cached.scopes:
            raise Forbidden(f"This API key does not allow this: its scopes are {', '.join(sorted(cached.scopes))}.")
        cached.principal.limits.require_address(address)
        self.uses.note(cached.principal)
        return cached.principal

    def costs_a_lookup(self, secret: str) -> bool:
        """Whether only a query can tell that this key is wrong: it has no tag, and is not cached."""
        return not key_tags.is_tagged(secret) and _hash(secret) not in self._cached

    def forget(self, caller: Principal) -> None:
        """Drop the caller's key from the cache, so that the next request with it queries the database."""
        for key_hash, cached in self._cached.items():
            if cached.principal.api_key == caller.api_key:
                del self._cached[key_hash]
                break

    async def _look_up(self, key_hash: str, *, tagged: bool) -> _CachedKey:
        """Look a key up. Concurrent requests with one key share a lookup."""
        lookup = self._lookups.get(key_hash)
        if lookup is None:
            if not tagged and self._untagged_lookups >= MAX_PENDING_LOOKUPS:
                raise Overloaded
            lookup = asyncio.create_task(self._query(key_hash) if tagged else self._query_in_turn(key_hash))
            self._lookups[key_hash] = lookup
            if not tagged:
                self._untagged_lookups += 1
                lookup.add_done_callback(self._count_untagged_done)
            lookup.add_done_callback(lambda done: self._cache_result(key_hash, done))
        return await asyncio.shield(lookup)

    async def _query_in_turn(self, key_hash: str) -> _CachedKey:
        async with self._lookup_slots:
            return await self._query(key_hash)

    def _count_untagged_done(self, _: "asyncio.Task[_CachedKey]") -> None:
        self._untagged_lookups -= 1

    def _cache_result(self, key_hash: str, lookup: "asyncio.Task[_CachedKey]") -> None:
        del self._lookups[key_hash]
        self._cached.pop(key_hash, None)
        if lookup.cancelled():
            return
        error = lookup.exception()
        if error is None:
            self._cached[key_hash] = lookup.result()
            _evict_oldest(self._cached)
        elif isinstance(error, Unauthenticated):
            self._refused[key_hash] = self._clock.now_ms() + REFUSED_KEY_MS
            _evict_oldest(self._refused)

    async def _query(self, key_hash: str) -> _CachedKey:
        """Read a key from the database. Raises Unauthenticated, DatabaseUnavailable."""
        query = (
            select(ApiKey, User, Tenant)
            .join(User, col(User.id) == ApiKey.user_id)
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .where(ApiKey.key_hash == key_hash)
        )
        now_ms = self._clock.now_ms()
        async with self._database.session() as session:
            found = (await session.exec(query)).first()
        if found is None:
            raise Unauthenticated
        key, user, tenant = found
        if not key.is_valid(now_ms) or user.disabled_at or tenant.disabled_at:
            raise Unauthenticated
        principal = replace(principal_of(user, key.id), limits=limits_of(key), tags=decode_tags(key.tags))
        return _CachedKey(principal, frozenset(key.scopes.split()), key.expires_ms, now_ms + CACHED_KEY_MS)


def _evict_oldest(cache: OrderedDict[str, Any]) -> None:
    if len(cache) > MAX_CACHED_KEYS:
        cache.popitem(last=False)


async def create(
    session: AsyncSession,
    user: User,
    name: str,
    scopes: Collection[Access],
    expires_ms: int | None,
    now_ms: int,
    limits: KeyLimits = NO_LIMITS,
    tags: Tags = NO_TAGS,
) -> NewKey:
    """Add an API key to a user, whose calls all have these `tags`. Raises InvalidRequest."""
    if not scopes or not set(scopes) <= set(GRANTABLE_SCOPES):
        raise InvalidRequest(f"A key's scopes are one or more of: {', '.join(GRANTABLE_SCOPES)}.")
    name, expires_ms = check_name(name), check_expiry(expires_ms, now_ms)
    lock = update(User).where(col(User.id) == user.id).values(token_version=User.token_version)
    await session.exec(lock)  # no other transaction adds a key between the count and the insert
    if len(await list_keys(session, user)) >= MAX_KEYS_PER_USER:
        raise InvalidRequest(f"A user has at most {MAX_KEYS_PER_USER} API keys. Revoke one first.")
    assert user.id is not None
    random = secrets.token_urlsafe(32)
    secret = TAGGED_PREFIX + random + key_tags.tag(random, await key_tags.newest_secret(session))
    row = ApiKey(
        id=f"key_{secrets.token_hex(12)}",
        tenant_id=user.tenant_id,
        user_id=user.id,
        name=name,
        prefix=secret[:VISIBLE_CHARACTERS],
        key_hash=_hash(secret),
        scopes=" ".join(scope for scope in GRANTABLE_SCOPES if scope in scopes),
        created_ms=now_ms,
        expires_ms=expires_ms,
        tags=encode_tags(tags),
    )
    set_limits(row, limits)
    session.add(row)
    await session.flush()
    return NewKey(row, secret)


def check_name(name: str) -> str:
    """Returns a key's name without spaces around it. Raises InvalidRequest."""
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"A key's name has 1 to {MAX_NAME_LENGTH} printable characters.")
    return name


def check_expiry(expires_ms: int | None, now_ms: int) -> int | None:
    """Returns when a key is to expire. Raises InvalidRequest."""
    if expires_ms is not None and not now_ms < expires_ms <= now_ms + MAX_LIFETIME_DAYS * DAY_MS:
        raise InvalidRequest(f"A key's expiry must be in the future, at most {MAX_LIFETIME_DAYS} days from now.")
    return expires_ms


def limits_of(key: ApiKey) -> KeyLimits:
    """What a key is limited to."""
    columns = (key.models, key.surfaces, key.networks)
    return KeyLimits(*(tuple(orjson.loads(text)) if text is not None else None for text in columns))


def set_limits(key: ApiKey, limits: KeyLimits) -> None:
    """Change what a key is limited to."""
    lists = (limits.models, limits.surfaces, limits.networks)
    key.models, key.surfaces, key.networks = (
        orjson.dumps(names).decode() if names is not None else None for names in lists
    )


async def list_keys(session: AsyncSession, user: User) -> list[ApiKey]:
    """Returns the keys of a user that are not revoked, expired ones included; the newest first."""
    query = select(ApiKey).where(ApiKey.user_id == user.id, col(ApiKey.revoked_ms).is_(None))
    return list((await session.exec(query.order_by(col(ApiKey.created_ms).desc(), col(ApiKey.id)))).all())


async def get_key(session: AsyncSession, key_id: str, scope: TenantScope) -> ApiKey:
    """A key that is not revoked, of these tenants. Raises NotFound."""
    is_it = col(ApiKey.id) == key_id, scope.condition(col(ApiKey.tenant_id)), col(ApiKey.revoked_ms).is_(None)
    key = (await session.exec(select(ApiKey).where(*is_it))).first() if is_id(key_id) else None
    if key is None:
        raise NotFound("There is no such API key.")
    return key


async def revoke(session: AsyncSession, user: User, key_id: str, now_ms: int) -> None:
    """Refuse a key from the next request on. Calls in flight are settled. Raises NotFound."""
    is_theirs = (col(ApiKey.id) == key_id, col(ApiKey.user_id) == user.id, col(ApiKey.revoked_ms).is_(None))
    if is_id(key_id):
        revoked = await session.exec(update(ApiKey).where(*is_theirs).values(revoked_ms=now_ms))
        if revoked.rowcount:
            return
    raise NotFound("There is no such API key.")


async def revoke_all(session: AsyncSession, user: User, now_ms: int) -> int:
    """Revoke every key of a user. Returns their number."""
    are_theirs = (col(ApiKey.user_id) == user.id, col(ApiKey.revoked_ms).is_(None))
    return (await session.exec(update(ApiKey).where(*are_theirs).values(revoked_ms=now_ms))).rowcount


def is_id(text: str) -> bool:
    """Whether a text has the form of a key's id."""
    return _ID.fullmatch(text) is not None


def _hash(secret: str) -> str:
    """One round of SHA-256 is enough, since a key has 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
