"""Passwords: hashed with `bcrypt_sha256`, off the event loop, a few at a time. The only importer of passlib."""

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
MAX_WAITING = 64

T = TypeVar("T")


class Passwords:
    """Hashes and verifies. `rounds` is bcrypt's cost: each one more doubles the time."""

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(
            schemes=["bcrypt_sha256", "bcrypt"],
            deprecated=["bcrypt"],
            bcrypt_sha256__rounds=rounds,
            bcrypt__rounds=rounds,
        )
        self._threads = ThreadPoolExecutor(max_workers=HASHING_THREADS, thread_name_prefix="password")
        self._waiting = 0
        self._nobody = self._context.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """Raises InvalidRequest for a password that is too short or too long."""
        if len(password) < MIN_CHARACTERS:
            raise InvalidRequest(f"A password needs at least {MIN_CHARACTERS} characters.")
        if len(password.encode()) > MAX_BYTES:
            raise InvalidRequest(f"A password can have at most {MAX_BYTES} bytes.")
        return await self._in_thread(self._context.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is right. Without a hash it takes the same time, and is wrong."""
        return await self._in_thread(self._verify, password, password_hash)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Hash in a thread, unless too many wait already. Raises RateLimited."""
        if self._waiting >= MAX_WAITING:
            raise RateLimited("Too many logins at once.", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._waiting -= 1

    def _verify(self, password: str, password_hash: str | None) -> bool:
        if len(password.encode()) > MAX_BYTES:
            password, password_hash = "", None
        good: bool = self._context.verify(password, password_hash or self._nobody)
        return good and password_hash is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False)
