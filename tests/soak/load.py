"""The mix of calls of a soak: every endpoint, clients that leave, providers that fail, repeats, logins and reads."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from journeys.support.admins import Admin
from journeys.support.endpoints import ALL_ENDPOINTS, EMBEDDINGS, STREAMING_ENDPOINTS, Endpoint, call, open_call
from journeys.support.provider_wires import EMBEDDINGS as EMBEDDINGS_WIRE
from journeys.support.provider_wires import WIRES
from journeys.support.users import PASSWORD, ApiUser, login
from journeys.upstream.handle import scripted

ANSWER = "one two three four five six seven eight"
FAULTS: tuple[dict[str, object], ...] = (
    {"status": 500},
    {"status": 429},
    {"status": 400},
    {"fault": "reset"},
    {"fault": "not_http"},
)
REFUSALS = {400, 429, 502, 503, 504}
"""What a fault of the provider is answered with."""
READS = ("/me", "/me/quota", "/me/charges", "/ai/models", "/auth/keys", "/health/ready")
ADMIN_READS = ("/admin/users", "/admin/charges", "/admin/quotas", "/admin/audit")
OUTPUT = 60

Action = Callable[[ApiUser, random.Random], Awaitable[None]]


class Unexpected(Exception):
    """An answer that is none of those that are right."""


class Mix:
    """Loops of callers. `done` counts the actions, `unexpected` what went wrong, with one example of each kind."""

    def __init__(self, callers: Sequence[ApiUser], admin: Admin, pause_s: float) -> None:
        self._callers = callers
        self._admin = admin
        self._pause_s = pause_s
        self._stopping = False
        self._actions: dict[Action, int] = {
            self._whole_answer: 40,
            self._hang_up: 15,
            self._provider_fault: 15,
            self._abandoned_request: 5,
            self._repeat: 5,
            self._login: 1,
            self._read: 15,
            self._admin_read: 4,
        }
        self.done: Counter[str] = Counter()
        self.unexpected: dict[str, str] = {}

    async def run(self) -> None:
        """Call until `stop`."""
        self._stopping = False
        await asyncio.gather(*(self._loop(caller, random.Random(n)) for n, caller in enumerate(self._callers)))

    def stop(self) -> None:
        """End `run` after the actions that have begun. It may be called again."""
        self._stopping = True

    async def _loop(self, caller: ApiUser, rng: random.Random) -> None:
        while not self._stopping:
            [action] = rng.choices(list(self._actions), list(self._actions.values()))
            name = action.__name__.strip("_")
            try:
                await action(caller, rng)
            except (Unexpected, aiohttp.ClientError, ConnectionError, TimeoutError, AssertionError) as error:
                self.unexpected.setdefault(name, f"{type(error).__name__}: {error}"[:300])
                self.done["unexpected"] += 1
            self.done[name] += 1
            await asyncio.sleep(rng.uniform(0, 2 * self._pause_s))

    async def _whole_answer(self, caller: ApiUser, rng: random.Random) -> None:
        endpoint = rng.choice(ALL_ENDPOINTS)
        model = EMBEDDINGS_WIRE.model if endpoint is EMBEDDINGS else rng.choice(WIRES).model
        ended = await call(caller, endpoint, _prompt(caller, pace=rng.uniform(0, 0.02)), model, OUTPUT)
        if ended.status != 200 or ended.answer.error is not None:
            raise Unexpected(f"{endpoint.name} on {model}: {ended.status} {ended.answer.error}")

    async def _hang_up(self, caller: ApiUser, rng: random.Random) -> None:
        endpoint, wire = rng.choice(STREAMING_ENDPOINTS), rng.choice(WIRES)
        async with open_call(caller, endpoint, _prompt(caller, pace=0.02), wire.model, OUTPUT) as opened:
            await opened.read_words(rng.randint(1, 4))
            await opened.disconnect()

    async def _provider_fault(self, caller: ApiUser, rng: random.Random) -> None:
        endpoint: Endpoint = rng.choice([one for one in ALL_ENDPOINTS if one is not EMBEDDINGS])
        prompt = _prompt(caller, **rng.choice(FAULTS))
        ended = await call(caller, endpoint, prompt, rng.choice(WIRES).model, OUTPUT)
        if ended.status not in REFUSALS and ended.answer.error is None:
            raise Unexpected(f"{endpoint.name}: {ended.status} for a fault of the provider")

    async def _abandoned_request(self, caller: ApiUser, rng: random.Random) -> None:
        query = asyncio.create_task(caller.query(_prompt(caller, delay=0.5), max_tokens=OUTPUT))
        await asyncio.sleep(rng.uniform(0, 0.3))
        query.cancel()
        await asyncio.gather(query, return_exceptions=True)

    async def _repeat(self, caller: ApiUser, rng: random.Random) -> None:
        body = {"prompt": _prompt(caller), "max_tokens": OUTPUT}
        headers = caller.auth_headers | {"Idempotency-Key": secrets.token_hex(8)}
        answers = []
        for _ in range(2):
            async with caller.http.post("/ai/query", json=body, headers=headers) as response:
                answers.append((response.status, (await response.json())["query_id"]))
        if answers[0] != answers[1] or answers[0][0] != 200:
            raise Unexpected(f"a repeat differs: {answers}")

    async def _login(self, caller: ApiUser, rng: random.Random) -> None:
        reply = await login(caller.http, caller.email, PASSWORD)
        if reply.status != 200:
            raise Unexpected(f"login: {reply.status}")

    async def _read(self, caller: ApiUser, rng: random.Random) -> None:
        _require_200((await caller.get(path := rng.choice(READS))).status, path)

    async def _admin_read(self, caller: ApiUser, rng: random.Random) -> None:
        _require_200((await self._admin.get(path := rng.choice(ADMIN_READS))).status, path)


def _prompt(caller: ApiUser, **script: object) -> str:
    return scripted(caller.marker, **({"answer": ANSWER} | script))


def _require_200(status: int, path: str) -> None:
    if status != 200:
        raise Unexpected(f"{path}: {status}")
