"""Password hashing with `bcrypt_sha256`, in a few threads beside the event loop. Only this module imports passlib."""

import asyncio
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

from passlib.context import CryptContext
from passlib.hash import bcrypt_sha256

from tollkeeper.errors import InvalidRequest, RateLimited

MIN_CHARACTERS = 12
MAX_BYTES = 1024
MIN_ROUNDS = 4
HASHING_THREADS = 2
MAX_QUEUED = 64
MAX_QUEUED_PER_TENANT = 8
"""Of those that users and administrators of one tenant set, so that they do not keep others from logging in."""

T = TypeVar("T")

_ROUNDS = re.compile(r"(?:r=|\$2[aby]\$)(\d+)")


class Verified(NamedTuple):
    """Whether a password matches its hash; if so, a hash in the present form, where the stored one is older."""

    matches: bool
    new_hash: str | None = None


def normalize(password: str) -> str:
    """Returns the form in which passwords are hashed: NFC, with plain spaces (RFC 8265, OpaqueString)."""
    return unicodedata.normalize("NFC", "".join(" " if unicodedata.category(one) == "Zs" else one for one in password))


def check_length(password: str) -> None:
    """Raises InvalidRequest for a password that is too short or too long."""
    if len(password) < MIN_CHARACTERS:
        raise InvalidRequest(f"A password needs at least {MIN_CHARACTERS} characters.")
    if len(password.encode()) > MAX_BYTES:
        raise InvalidRequest(f"A password can have at most {MAX_BYTES} bytes.")


@cache
def _dummy_hash(rounds: int) -> str:
    """Returns a hash that no password matches, and that takes as long to verify as any other of these rounds.

    Its checksum is one of MIN_ROUNDS: to compute one of 12 rounds would take a quarter of a second at each start.
    """
    dummy: str = bcrypt_sha256.using(rounds=MIN_ROUNDS).hash(secrets.token_hex())
    return dummy.replace(f"r={MIN_ROUNDS}$", f"r={rounds}$")


class Passwords:
    """Hashes and verifies passwords. `rounds` is bcrypt's cost: each increment doubles the time of a hash."""

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(
            schemes=["bcrypt_sha256", "bcrypt"],
            deprecated=["bcrypt"],
            bcrypt_sha256__rounds=rounds,
            bcrypt__rounds=rounds,
        )
        self._rounds = rounds
        self._threads = ThreadPoolExecutor(max_workers=HASHING_THREADS, thread_name_prefix="password")
        self._queued = 0
        self._queued_by_tenant: Counter[int] = Counter()
        _dummy_hash(rounds)  # here, because the first hash of a process takes longer

    async def hash(self, password: str, *, tenant_id: int | None = None) -> str:
        """Returns the hash of a new password, which someone of this tenant sets. Raises InvalidRequest for one that is
        too short or too long; RateLimited, also when MAX_QUEUED_PER_TENANT of this tenant are being hashed or wait.
        """
        check_length(password)
        if tenant_id is None:
            return await self._in_thread(self._context.hash, normalize(password))
        if self._queued_by_tenant[tenant_id] >= MAX_QUEUED_PER_TENANT:
            raise RateLimited("Your tenant sets too many passwords at once.", retry_after_s=1)
        self._queued_by_tenant[tenant_id] += 1
        try:
            return await self._in_thread(self._context.hash, normalize(password))
        finally:
            self._queued_by_tenant[tenant_id] -= 1
            if not self._queued_by_tenant[tenant_id]:
                del self._queued_by_tenant[tenant_id]

    async def verify(self, password: str, password_hash: str | None) -> Verified:
        """Compare a password with a hash. Without a hash: no match, after the same time. Raises RateLimited."""
        return await self._in_thread(self._verify, password, password_hash)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run in a thread. Raises RateLimited when MAX_QUEUED passwords are being hashed or wait for a thread."""
        if self._queued >= MAX_QUEUED:
            raise RateLimited("Too many logins at once.", retry_after_s=1)
        self._queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._queued -= 1

    def _verify(self, password: str, password_hash: str | None) -> Verified:
        if len(password.encode()) > MAX_BYTES:
            password, password_hash = "", None
        forms = [normalize(password)]
        if password != forms[0]:
            forms.append(password)  # hashes of earlier versions are of the password as it was typed
        matched = [form for form in forms if self._context.verify(form, password_hash or _dummy_hash(self._rounds))]
        if password_hash is None:
            return Verified(matches=False)
        self._make_up_for(password_hash)
        is_outdated = self._context.needs_update(password_hash) or forms[0] not in matched
        return Verified(bool(matched), self._context.hash(forms[0]) if matched and is_outdated else None)

    def _make_up_for(self, password_hash: str) -> None:
        """Take the time by which an older hash of fewer rounds is verified faster: each further round doubles it.

        2^old + 2^old + 2^(old+1) + … + 2^(new-1) = 2^new, so the time does not tell known users from unknown ones.
        """
        found = _ROUNDS.search(password_hash)
        for rounds in range(int(found[1]) if found else self._rounds, self._rounds):
            self._context.verify("", _dummy_hash(rounds))

    def close(self) -> None:
        """Stop the threads. A hash that runs is completed."""
        self._threads.shutdown(wait=False)
