"""Password hashing with `bcrypt_sha256`, in a few threads beside the event loop. Only this module imports passlib."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from passlib.context import CryptContext

from tollkeeper.errors import InvalidRequest, RateLimited

MIN_CHARACTERS = 12
MAX_BYTES = 1024
HASHING_THREADS = 2
MAX_QUEUED = 64

T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords. `rounds` is bcrypt's cost: each increment doubles the time of a hash."""

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(
            schemes=["bcrypt_sha256", "bcrypt"],
            deprecated=["bcrypt"],
            bcrypt_sha256__rounds=rounds,
            bcrypt__rounds=rounds,
        )
        self._threads = ThreadPoolExecutor(max_workers=HASHING_THREADS, thread_name_prefix="password")
        self._queued = 0
        self._dummy_hash = self._context.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """Returns the hash. Raises InvalidRequest for a password that is too short or too long, and RateLimited."""
        if len(password) < MIN_CHARACTERS:
            raise InvalidRequest(f"A password needs at least {MIN_CHARACTERS} characters.")
        if len(password.encode()) > MAX_BYTES:
            raise InvalidRequest(f"A password can have at most {MAX_BYTES} bytes.")
        return await self._in_thread(self._context.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password matches the hash. Without a hash: False, after the same time. Raises RateLimited."""
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

    def _verify(self, password: str, password_hash: str | None) -> bool:
        if len(password.encode()) > MAX_BYTES:
            password, password_hash = "", None
        matches: bool = self._context.verify(password, password_hash or self._dummy_hash)
        return matches and password_hash is not None

    def close(self) -> None:
        """Stop the threads. A hash that runs is completed."""
        self._threads.shutdown(wait=False)
