"""API keys: how programs sign in as a user. Shown once, kept as a hash, narrowed by scopes, revoked at once."""

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.db import Database
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound, Overloaded, Unauthenticated
from tollkeeper.identity.accounts import principal_of
from tollkeeper.identity.models import ApiKey, Tenant, User
from tollkeeper.principal import Access, Principal

PREFIX = "tk-"
"""By which people, and programs that look for leaked secrets, know one."""
SHOWN = 10
"""How many characters of a key stay visible."""
LENGTH = len(PREFIX) + 43
MAX_NAME_LENGTH = 100
MAX_KEYS = 50
"""Per user: the ledger reads all of them with the user's row."""
GRANTABLE = (Access.AI, Access.ME)
MAX_DAYS = 3650
"""Between now and a key's end."""
REMEMBERED_MS = 30_000
REFUSED_MS = 5_000
MAX_REMEMBERED = 10_000
LOOKING_UP = 4
"""How many keys are looked up at once: strangers with wrong keys must not take all connections to the database."""
MAX_LOOKING_UP = 200

DAY_MS = 86_400_000

_ID = re.compile(r"key_[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, and its secret, which nobody will see again."""

    row: ApiKey
    secret: str = field(repr=False)


class _Known(NamedTuple):
    principal: Principal
    scopes: frozenset[str]
    expires_ms: int | None
    until_ms: int


class ApiKeys:
    """Whom a key speaks for.

    What was found is remembered for REMEMBERED_MS, and what was not, for REFUSED_MS. That is safe for the same reason
    as with tokens: whether the key, its user and its tenant are still good is checked by the reserve transaction and by
    the account look-up.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._remembered: OrderedDict[str, _Known] = OrderedDict()
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._looking: dict[str, asyncio.Task[_Known]] = {}
        self._room = asyncio.Semaphore(LOOKING_UP)

    async def verify(self, secret: str, access: Access) -> Principal:
        """Raises Unauthenticated, Forbidden (not in the key's scopes), LedgerUnavailable, Overloaded."""
        if len(secret) != LENGTH:
            raise Unauthenticated
        hashed, now_ms = _hash(secret), self._clock.now_ms()
        known = self._remembered.get(hashed)
        if known is None or known.until_ms <= now_ms:
            if self._refused.get(hashed, 0) > now_ms:
                raise Unauthenticated
            known = await self._find(hashed)
        if known.expires_ms is not None and known.expires_ms <= now_ms:
            raise Unauthenticated
        if access not in known.scopes:
            raise Forbidden(f"This API key does not open that: its scopes are {', '.join(sorted(known.scopes))}.")
        return known.principal

    def forget(self, caller: Principal) -> None:
        """The caller's key was found to be good no longer: who comes with it again is refused at once."""
        for hashed, known in self._remembered.items():
            if known.principal.api_key == caller.api_key:
                del self._remembered[hashed]
                break

    async def _find(self, hashed: str) -> _Known:
        """Look a key up, once for all who ask at the same time."""
        looking = self._looking.get(hashed)
        if looking is None:
            if len(self._looking) >= MAX_LOOKING_UP:
                raise Overloaded
            looking = self._looking[hashed] = asyncio.create_task(self._look_up(hashed))
            looking.add_done_callback(lambda done: self._found(hashed, done))
        return await asyncio.shield(looking)

    def _found(self, hashed: str, looking: "asyncio.Task[_Known]") -> None:
        del self._looking[hashed]
        self._remembered.pop(hashed, None)
        if looking.cancelled():
            return
        error = looking.exception()
        if error is None:
            self._remembered[hashed] = looking.result()
            _bound(self._remembered)
        elif isinstance(error, Unauthenticated):
            self._refused[hashed] = self._clock.now_ms() + REFUSED_MS
            _bound(self._refused)

    async def _look_up(self, hashed: str) -> _Known:
        query = (
            select(ApiKey, User, Tenant)
            .join(User, col(User.id) == ApiKey.user_id)
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .where(ApiKey.key_hash == hashed)
        )
        now_ms = self._clock.now_ms()
        async with self._room, self._database.session() as session:
            found = (await session.exec(query)).first()
        if found is None:
            raise Unauthenticated
        key, user, tenant = found
        if not key.is_good(now_ms) or user.disabled_at or tenant.disabled_at:
            raise Unauthenticated
        principal = principal_of(user, key.id)
        return _Known(principal, frozenset(key.scopes.split()), key.expires_ms, now_ms + REMEMBERED_MS)


def _bound(memory: OrderedDict[str, Any]) -> None:
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


async def create(
    session: AsyncSession, user: User, name: str, scopes: Collection[Access], expires_ms: int | None, now_ms: int
) -> NewKey:
    """A new key of this user. Raises InvalidRequest."""
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"A key's name has 1 to {MAX_NAME_LENGTH} printable characters.")
    if not scopes or not set(scopes) <= set(GRANTABLE):
        raise InvalidRequest(f"A key's scopes are one or more of: {', '.join(GRANTABLE)}.")
    if expires_ms is not None and not now_ms < expires_ms <= now_ms + MAX_DAYS * DAY_MS:
        raise InvalidRequest(f"A key's end lies in the future, at most {MAX_DAYS} days from now.")
    lock = update(User).where(col(User.id) == user.id).values(token_version=User.token_version)
    await session.exec(lock)  # so that nobody makes one between the count and the insert
    if len(await keys_of(session, user)) >= MAX_KEYS:
        raise InvalidRequest(f"A user has at most {MAX_KEYS} API keys. Revoke one first.")
    assert user.id is not None
    secret = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        id=f"key_{secrets.token_hex(12)}",
        tenant_id=user.tenant_id,
        user_id=user.id,
        name=name,
        prefix=secret[:SHOWN],
        key_hash=_hash(secret),
        scopes=" ".join(scope for scope in GRANTABLE if scope in scopes),
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    session.add(row)
    await session.flush()
    return NewKey(row, secret)


async def keys_of(session: AsyncSession, user: User) -> list[ApiKey]:
    """A user's keys that are not revoked, expired ones too; the newest first."""
    query = select(ApiKey).where(ApiKey.user_id == user.id, col(ApiKey.revoked_ms).is_(None))
    return list((await session.exec(query.order_by(col(ApiKey.created_ms).desc(), col(ApiKey.id)))).all())


async def revoke(session: AsyncSession, user: User, key_id: str, now_ms: int) -> None:
    """From the next request on the key opens nothing; what is in flight is settled. Raises NotFound."""
    theirs = (col(ApiKey.id) == key_id, col(ApiKey.user_id) == user.id, col(ApiKey.revoked_ms).is_(None))
    if _ID.fullmatch(key_id):
        revoked = await session.exec(update(ApiKey).where(*theirs).values(revoked_ms=now_ms))
        if revoked.rowcount:
            return
    raise NotFound("There is no such API key.")


async def revoke_all(session: AsyncSession, user: User, now_ms: int) -> int:
    """Revoke every key of a user. Returns how many."""
    theirs = (col(ApiKey.user_id) == user.id, col(ApiKey.revoked_ms).is_(None))
    return (await session.exec(update(ApiKey).where(*theirs).values(revoked_ms=now_ms))).rowcount


def _hash(secret: str) -> str:
    """A key is 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
