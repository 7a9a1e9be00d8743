"""Limits on the rate of requests. The ledger limits tokens.

Each process counts for itself, in memory with slowapi's `Limiter`, or all count together in Redis.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from limits import parse_many
from slowapi import Limiter
from slowapi.util import get_remote_address

from tollkeeper.clock import Clock
from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal
from tollkeeper.rate_limits.local_counters import LocalCounters
from tollkeeper.rate_limits.request_rate import RateLimit, RequestRate
from tollkeeper.server.limits import source_of
from tollkeeper.settings.extras import missing_package

if TYPE_CHECKING:
    from tollkeeper.rate_limits.shared_counters import SharedCounters

MAX_SOCKETS_PER_USER = 100
"""Open WebSockets of one user in one process."""

LOGIN_SETTING = "TOLLKEEPER_RATE_LIMIT_LOGIN"
AI_SETTING = "TOLLKEEPER_RATE_LIMIT_AI"
READS_SETTING = "TOLLKEEPER_RATE_LIMIT_READS"
HANDSHAKES_SETTING = "TOLLKEEPER_RATE_LIMIT_HANDSHAKES"
SOCKETS_LIMIT = "sockets_per_user"
"""Stands for MAX_SOCKETS_PER_USER, which is no setting, in the count of refusals."""
PLAN_LIMIT = "plan"
"""Stands for a limit of a tenant's plan."""
LIMITS = (LOGIN_SETTING, AI_SETTING, READS_SETTING, HANDSHAKES_SETTING, SOCKETS_LIMIT, PLAN_LIMIT)
"""What may refuse a request."""


class _Limits(NamedTuple):
    """What a setting allows. All of its items apply; none if it is "off"."""

    setting: str
    items: tuple[RateLimit, ...]


class PlanRates(NamedTuple):
    """The rates of a plan, in the notation of the settings. None leaves the setting of users; for tenants, no limit."""

    calls_per_user: str | None = None
    calls_per_tenant: str | None = None
    requests_per_user: str | None = None
    requests_per_tenant: str | None = None


class _PlanLimits(NamedTuple):
    """The limits of one plan on one kind of requests: of each user, and of all users of a tenant together."""

    of_user: _Limits
    of_tenant: _Limits


class Throttle:
    """The rate limits of one process: AI calls per user, logins per account, API keys created per user, other requests
    per user, and logins, WebSocket handshakes and documents per address.

    `login`, `ai`, `reads` and `handshakes` are in the notation of `limits` ("600/minute", several joined by ";"), or
    "off". `reads` applies to authenticated requests that are not metered, and to documents; `login` to logins, failed
    authentications and new keys. `store_url` names the Redis in which all processes count; None for this process alone.
    """

    def __init__(
        self,
        *,
        login: str,
        ai: str,
        reads: str = "off",
        handshakes: str = "off",
        clock: Clock,
        store_url: str | None = None,
    ) -> None:
        """Raises ConfigurationError if the store needs what is not installed."""
        limiter = Limiter(
            key_func=get_remote_address,
            storage_uri="loop://",
            storage_options={"clock": clock},  # type: ignore[dict-item]
        )
        self._local = LocalCounters(limiter.limiter)
        self._shared = _make_shared(store_url, self._local, clock) if store_url is not None else None
        self._clock = clock
        self._login_limits = _parse(LOGIN_SETTING, login, "logins")
        self._ai_limits = _parse(AI_SETTING, ai, "calls")
        self._read_limits = _parse(READS_SETTING, reads, "requests")
        self._handshake_limits = _parse(HANDSHAKES_SETTING, handshakes, "handshakes")
        self._plans: Mapping[int, tuple[_PlanLimits, _PlanLimits]] = {}
        """The limits on calls and on other requests, of each tenant that is on a plan."""
        self._sockets: Counter[int] = Counter()
        self.refusals: Counter[str] = Counter()
        """How many requests each limit has refused, by the name of its setting."""
        self.failures = 0
        """How many authentications have failed."""

    def configure(self, rates: Mapping[int, PlanRates]) -> None:
        """Take these rates, by tenant, in place of those before. What was counted under a limit that stays is kept."""
        self._plans = {tenant_id: self._plan_limits(plan) for tenant_id, plan in rates.items()}

    def _plan_limits(self, rates: PlanRates) -> tuple[_PlanLimits, _PlanLimits]:
        calls, requests = self._ai_limits, self._read_limits
        if rates.calls_per_user is not None:
            calls = _parse(PLAN_LIMIT, rates.calls_per_user, "calls")
        if rates.requests_per_user is not None:
            requests = _parse(PLAN_LIMIT, rates.requests_per_user, "requests")
        return (
            _PlanLimits(calls, _parse(PLAN_LIMIT, rates.calls_per_tenant or "off", "tenant-calls")),
            _PlanLimits(requests, _parse(PLAN_LIMIT, rates.requests_per_tenant or "off", "tenant-requests")),
        )

    async def start(self) -> None:
        """Find out whether the shared store answers."""
        if self._shared is not None:
            await self._shared.start()

    async def stop(self) -> None:
        """Close the connections to the shared store."""
        if self._shared is not None:
            await self._shared.stop()

    @property
    def store_is_away(self) -> bool:
        """Whether this process counts for itself because the shared store does not answer."""
        return self._shared is not None and self._shared.is_away

    @property
    def open_sockets(self) -> int:
        """How many WebSockets of authenticated users are open."""
        return sum(list(self._sockets.values()))

    @contextmanager
    def open_socket(self, caller: Principal) -> Iterator[None]:
        """Count an open WebSocket of this user for the block. Raises RateLimited beyond MAX_SOCKETS_PER_USER."""
        if self._sockets[caller.user_id] >= MAX_SOCKETS_PER_USER:
            self.refusals[SOCKETS_LIMIT] += 1
            raise RateLimited(f"A user may have {MAX_SOCKETS_PER_USER} open connections. Close one.", retry_after_s=1)
        self._sockets[caller.user_id] += 1
        try:
            yield
        finally:
            self._sockets[caller.user_id] -= 1
            if not self._sockets[caller.user_id]:
                del self._sockets[caller.user_id]

    async def check(self, caller: Principal) -> RequestRate | None:
        """Count one AI call of this user. Returns the tightest of the limits on them. Raises RateLimited."""
        if (plan := self._plans.get(caller.tenant_id)) is None:
            return await self._hit(self._ai_limits, "ai", str(caller.user_id))
        return await self._hit_plan(plan[0], "ai", caller)

    async def check_read(self, caller: Principal) -> RequestRate | None:
        """Count one request of this user that is not metered. Returns the tightest limit. Raises RateLimited."""
        if (plan := self._plans.get(caller.tenant_id)) is None:
            return await self._hit(self._read_limits, "reads", str(caller.user_id))
        return await self._hit_plan(plan[1], "reads", caller)

    async def check_document(self, address: str) -> None:
        """Count one request for a document from this address, which needs no authentication. Raises RateLimited."""
        await self._hit(self._read_limits, "documents", source_of(address))

    async def check_sign_on(self, address: str) -> None:
        """Count one step of a single sign-on from this address. Raises RateLimited.

        Failures count besides, as those of other authentications do.
        """
        await self._hit(self._read_limits, "sign_on", source_of(address))

    async def check_logins(self, address: str) -> None:
        """Count one attempt to log in, to any account, from this address. Raises RateLimited."""
        await self._hit(self._login_limits, "logins", source_of(address))

    async def check_login(self, account: str, address: str) -> None:
        """Count one attempt to log in to this account, whether or not it exists, from this address.

        Raises RateLimited. Attempts from other addresses do not count, so that a stranger cannot lock an account.
        """
        await self._hit(self._login_limits, "login", account, source_of(address))

    async def check_failures(self, address: str) -> None:
        """Raise RateLimited when too many authentications from this address (IPv6: its /64 network) have failed."""
        await self._hit(self._login_limits, "failed", source_of(address), cost=0)

    async def count_failure(self, address: str) -> None:
        """Count one failed authentication from this address. Raises RateLimited."""
        self.failures += 1
        await self._hit(self._login_limits, "failed", source_of(address))

    async def check_refresh(self, session_id: str) -> None:
        """Count one use of a genuine refresh token of this session. Raises RateLimited."""
        await self._hit(self._login_limits, "refresh", session_id)

    async def check_key_creation(self, caller: Principal) -> None:
        """Count one API key that this user creates. Raises RateLimited."""
        await self._hit(self._login_limits, "keys", str(caller.user_id))

    async def check_handshake(self, address: str) -> None:
        """Count one WebSocket handshake from this address, before it is authenticated. Raises RateLimited.

        An office behind one address opens many when a server restarts; a wrong credential counts as a failure besides.
        """
        await self._hit(self._handshake_limits, "handshake", source_of(address))

    async def _hit_plan(self, limits: _PlanLimits, kind: str, caller: Principal) -> RequestRate | None:
        """Count for the user, then for the tenant: what a user sends beyond their own limit costs no other user's.

        Returns the tightest limit. Raises RateLimited.
        """
        of_user = await self._hit(limits.of_user, kind, str(caller.user_id))
        of_tenant = await self._hit(limits.of_tenant, f"{kind}-of-tenant", str(caller.tenant_id))
        return of_user if of_tenant is None else _tighter(of_user, of_tenant)

    async def _hit(self, limits: _Limits, *key: str, cost: int = 1) -> RequestRate | None:
        """Count; or only check, where the cost is 0. Returns the tightest limit, None if there is none.

        Raises RateLimited.
        """
        tightest: RequestRate | None = None
        for limit in limits.items:
            if self._shared is None:
                rate = self._local.hit(limit, *key, cost=cost)
            else:
                rate = await self._shared.hit(limit, *key, cost=cost)
            if rate.remaining < 0:
                raise self._refuse(limits.setting, limit, rate)
            tightest = _tighter(tightest, rate)
        return tightest

    def _refuse(self, setting: str, limit: RateLimit, rate: RequestRate) -> RateLimited:
        """Count a refusal, and return its error. It names the setting, so that an operator knows what to change."""
        self.refusals[setting] += 1
        of_all = " for all users together" if rate.name.startswith("tenant-") else ""
        source = f"the plan of your tenant{of_all}" if setting == PLAN_LIMIT else setting
        return RateLimited(
            f"Too many requests: at most {limit.item} ({source}).",
            setting=setting,
            policy=rate.name,
            limit=rate.limit,
            window_s=rate.window_s,
            retry_after_s=max(1, -(-(rate.resets_ms - self._clock.now_ms()) // 1_000)),
        )


def _tighter(one: RequestRate | None, other: RequestRate) -> RequestRate:
    """The one with the lower ratio of what remains."""
    return other if one is None or other.remaining * one.limit < one.remaining * other.limit else one


def _make_shared(url: str, local: LocalCounters, clock: Clock) -> "SharedCounters":
    """Raises ConfigurationError."""
    try:
        from tollkeeper.rate_limits.shared_counters import SharedCounters  # redis is an optional dependency
    except ImportError:
        raise missing_package("TOLLKEEPER_LIMITS_STORE", "redis") from None
    return SharedCounters(url, local, clock)


def _parse(setting: str, notation: str, name: str) -> _Limits:
    """The limits of a setting. `name` is what they count."""
    items = () if notation == "off" else tuple(parse_many(notation))
    windows = [(item, item.get_expiry()) for item in items]
    return _Limits(setting, tuple(RateLimit(item, f"{name}-{size}s", item.amount, size) for item, size in windows))
