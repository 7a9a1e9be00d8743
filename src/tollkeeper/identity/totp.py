"""The second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes for when the app is lost.

A code works once: the counter of the newest accepted one is stored (RFC 6238, 5.2). Only this module imports pyotp.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import pyotp
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, or_, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import InvalidRequest, InvalidTotpCode, NotFound, RateLimited
from tollkeeper.identity.models import TotpSecret, User
from tollkeeper.tenant_scope import TenantScope

ISSUER = "Tollkeeper"
SECRET_CHARACTERS = 32
"""160 bits in base32, as RFC 4226, 4 recommends."""
PERIOD_S = 30
DRIFT = 1
"""Periods by which the clock of a phone may be off."""
RECOVERY_CODES = 10
RECOVERY_BYTES = 10
"""80 random bits, so that one round of SHA-256 is enough."""
FREE_FAILURES = 5
"""Wrong codes in a row before the next one has to wait."""
WAIT_MS = 300_000
"""With one code per five minutes, guessing one of a million takes years."""
_CODE = re.compile(r"[0-9]{6}")
_RECOVERY_CODE = re.compile(r"[a-z2-7]{16}")


class Proof(StrEnum):
    """What has proved the second factor."""

    CODE = "code"
    RECOVERY_CODE = "recovery_code"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A new secret, shown once: as text, and as the URI that an authenticator app reads from a QR code."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


class SecondFactors:
    """The second factors of users, in the database."""

    def __init__(self, keys: DataKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def start(self, session: AsyncSession, user: User) -> Enrolment:
        """Store a new secret, in place of one that was not confirmed. Raises InvalidRequest if one is confirmed."""
        assert user.id is not None
        row = await session.get(TotpSecret, user.id)
        if row is not None and row.confirmed_ms is not None:
            raise InvalidRequest("You have a second factor already. Remove it first: DELETE /auth/totp.")
        secret = pyotp.random_base32(SECRET_CHARACTERS)
        sealed = self._keys.seal(Purpose.IDENTITY, secret.encode(), _place(user))
        now_ms = self._clock.now_ms()
        if row is None:
            row = TotpSecret(
                user_id=user.id, tenant_id=user.tenant_id, sealed_secret=sealed, recovery_hashes="[]", created_ms=now_ms
            )
            session.add(row)
        row.sealed_secret, row.last_counter, row.created_ms = sealed, None, now_ms
        try:
            await session.flush()
        except IntegrityError:
            raise InvalidRequest("Another request has started this at the same time. Try again.") from None
        return Enrolment(secret, pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER))

    async def prove(self, database: Database, user: User, code: str, *, to_confirm: bool = False) -> Proof:
        """Consume a code, in a transaction of its own, so that a wrong one is counted. `to_confirm`: of a secret that
        is not confirmed yet, which has no recovery codes.

        Raises InvalidTotpCode; RateLimited after FREE_FAILURES wrong codes in a row, until WAIT_MS have passed;
        NotFound if there is no such secret.
        """
        async with database.session(TenantScope(user.tenant_id)) as session:
            await self._count_attempt(session, user)
            row = await session.get(TotpSecret, user.id)
            if row is None or (row.confirmed_ms is None) != to_confirm:
                raise NotFound("There is no second factor to prove. Set one up: POST /auth/totp.")
            proof = self._consume(row, user, code)
            if proof is not None:
                row.failures = 0
        if proof is None:
            raise InvalidTotpCode
        return proof

    async def confirm(self, session: AsyncSession, user: User) -> list[str]:
        """Demand the second factor from now on. Returns the recovery codes, which are stored as hashes only.

        A code must have been proved before. Raises InvalidRequest if a new secret was started since.
        """
        row = await session.get(TotpSecret, user.id, populate_existing=True)
        if row is None or row.last_counter is None or row.confirmed_ms is not None:
            raise InvalidRequest("Another request has changed your second factor at the same time. Begin again.")
        codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
        row.recovery_hashes = _encode([_hash(code) for code in codes])
        row.confirmed_ms = self._clock.now_ms()
        return codes

    async def remove(self, session: AsyncSession, user: User) -> bool:
        """Remove the second factor of a user. False if there is none."""
        removed = await session.exec(delete(TotpSecret).where(col(TotpSecret.user_id) == user.id))
        return removed.rowcount == 1

    async def is_confirmed(self, session: AsyncSession, user_id: int) -> bool:
        """Whether a login of this user needs a code."""
        is_theirs = (col(TotpSecret.user_id) == user_id, col(TotpSecret.confirmed_ms).is_not(None))
        return (await session.exec(select(TotpSecret.user_id).where(*is_theirs))).first() is not None

    async def _count_attempt(self, session: AsyncSession, user: User) -> None:
        """Count the attempt as a failure before it is checked, so that no two requests are checked at once."""
        now_ms = self._clock.now_ms()
        may_try = or_(col(TotpSecret.failures) < FREE_FAILURES, col(TotpSecret.failed_ms) <= now_ms - WAIT_MS)
        counted = await session.exec(
            update(TotpSecret)
            .where(col(TotpSecret.user_id) == user.id, may_try)
            .values(failures=TotpSecret.failures + 1, failed_ms=now_ms)
        )
        if counted.rowcount == 0 and await session.get(TotpSecret, user.id) is not None:
            raise RateLimited("Too many wrong codes. Wait a few minutes.", retry_after_s=WAIT_MS // 1000)

    def _consume(self, row: TotpSecret, user: User, code: str) -> Proof | None:
        """Mark a valid code as used. None for another one."""
        code = code.strip().lower().replace("-", "").replace(" ", "")
        if _CODE.fullmatch(code):
            counter = self._counter_of(row, user, code)
            if counter is not None:
                row.last_counter = counter
                return Proof.CODE
        elif _RECOVERY_CODE.fullmatch(code):
            hashes: list[str] = msgspec.json.decode(row.recovery_hashes)
            wanted = _hash(code)
            left = [one for one in hashes if not hmac.compare_digest(one, wanted)]
            if len(left) < len(hashes):
                row.recovery_hashes = _encode(left)
                return Proof.RECOVERY_CODE
        return None

    def _counter_of(self, row: TotpSecret, user: User, code: str) -> int | None:
        """The counter of a code that is valid now and newer than the last accepted one."""
        secret = self._keys.unseal(Purpose.IDENTITY, row.sealed_secret, _place(user)).decode()
        codes = pyotp.HOTP(secret)
        now = self._clock.now_ms() // 1000 // PERIOD_S
        for counter in range(now - DRIFT, now + DRIFT + 1):
            is_newer = row.last_counter is None or counter > row.last_counter
            if is_newer and hmac.compare_digest(codes.at(counter), code):
                return counter
        return None


def _place(user: User) -> str:
    return f"totp_secrets/{user.tenant_id}/{user.id}"


def _new_recovery_code() -> str:
    """A code in groups of four characters, which people can type."""
    code = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))


def _hash(code: str) -> str:
    return hashlib.sha256(b"recovery code" + code.replace("-", "").encode()).hexdigest()


def _encode(hashes: list[str]) -> str:
    return msgspec.json.encode(hashes).decode()
