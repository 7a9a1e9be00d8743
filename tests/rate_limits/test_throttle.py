"""Coarse limits on requests: per user, per account, in fixed windows."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from freezegun import freeze_time

from tollkeeper.clock import SystemClock
from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal, Role
from tollkeeper.rate_limits import local_counters as module
from tollkeeper.rate_limits.local_counters import LoopStorage
from tollkeeper.rate_limits.request_rate import RequestRate
from tollkeeper.rate_limits.throttle import PlanRates, Throttle

ADA, BOB = (Principal(number, 1, Role.MEMBER, 0) for number in (1, 2))


async def test_each_user_has_a_budget_and_it_comes_back() -> None:
    throttle = Throttle(login="off", ai="2/minute", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:10Z") as frozen:
        await throttle.check(ADA)
        await throttle.check(ADA)
        with pytest.raises(RateLimited) as raised:
            await throttle.check(ADA)
        assert raised.value.retry_after_s == 60
        assert throttle.refusals == {"TOLLKEEPER_RATE_LIMIT_AI": 1}
        await throttle.check(BOB)
        frozen.tick(60)
        await throttle.check(ADA)


async def test_several_limits_hold_together() -> None:
    throttle = Throttle(login="off", ai="2/second;3/minute", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        await throttle.check(ADA)
        await throttle.check(ADA)
        with pytest.raises(RateLimited):
            await throttle.check(ADA)
        frozen.tick(2)
        await throttle.check(ADA)
        with pytest.raises(RateLimited) as raised:
            await throttle.check(ADA)
        assert raised.value.retry_after_s == 58


async def test_logins_are_counted_per_account_apart_from_calls() -> None:
    throttle = Throttle(login="1/minute", ai="1/minute", clock=SystemClock())
    await throttle.check_login("ada@example.com", "127.0.0.1")
    await throttle.check_login("bob@example.com", "127.0.0.1")
    await throttle.check(ADA)
    with pytest.raises(RateLimited):
        await throttle.check_login("ada@example.com", "127.0.0.1")


async def test_handshakes_are_counted_per_address_apart_from_logins_and_calls() -> None:
    throttle = Throttle(login="1/minute", ai="1/minute", handshakes="1/minute", clock=SystemClock())
    await throttle.check(ADA)
    await throttle.check_handshake("127.0.0.1")
    await throttle.check_handshake("127.0.0.2")
    await throttle.check_login("127.0.0.1", "127.0.0.1")
    with pytest.raises(RateLimited):
        await throttle.check_handshake("127.0.0.1")


async def test_a_limit_that_is_off_refuses_nothing() -> None:
    throttle = Throttle(login="off", ai="off", reads="off", clock=SystemClock())
    for _ in range(1000):
        await throttle.check_read(ADA)
        await throttle.check_document("127.0.0.1")
        await throttle.check_handshake("127.0.0.1")
        await throttle.check(ADA)
        await throttle.check_login("ada@example.com", "127.0.0.1")


def test_expired_counters_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HITS_PER_CLEANUP", 10)
    storage = LoopStorage(clock=SystemClock())
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        for number in range(9):
            storage.incr(f"address-{number}", 60)
        frozen.tick(61)
        storage.incr("late", 60)
        assert storage.reset() == 1


def test_the_storage_keeps_the_contract_of_limits() -> None:
    storage = LoopStorage(clock=SystemClock())
    assert storage.check()
    assert (storage.get("a"), storage.incr("a", 60), storage.incr("a", 60, 2), storage.get("a")) == (0, 1, 3, 3)
    assert storage.get_expiry("a") > storage.get_expiry("never")
    storage.clear("a")
    assert storage.get("a") == 0


async def test_logins_to_an_account_are_counted_per_address_and_network() -> None:
    """Otherwise a stranger could lock the account."""
    throttle = Throttle(login="1/minute", ai="off", clock=SystemClock())
    await throttle.check_login("ada@example.com", "192.0.2.1")
    await throttle.check_login("ada@example.com", "192.0.2.2")
    await throttle.check_login("ada@example.com", "2001:db8::1")
    with pytest.raises(RateLimited):
        await throttle.check_login("ada@example.com", "2001:db8::2")


async def repeat(check: Callable[[], Awaitable[object]], times: int) -> None:
    for _ in range(times):
        await check()


async def test_every_refusal_by_a_limit_names_the_limit_and_its_setting() -> None:
    throttle = Throttle(login="1/minute", ai="2/hour", reads="3/second", handshakes="2/day", clock=SystemClock())
    limits: dict[str, tuple[Callable[[], Awaitable[object]], ...]] = {
        "at most 2 per 1 hour (TOLLKEEPER_RATE_LIMIT_AI)": (lambda: throttle.check(ADA),),
        "at most 2 per 1 day (TOLLKEEPER_RATE_LIMIT_HANDSHAKES)": (lambda: throttle.check_handshake("192.0.2.1"),),
        "at most 3 per 1 second (TOLLKEEPER_RATE_LIMIT_READS)": (
            lambda: throttle.check_read(ADA),
            lambda: throttle.check_document("192.0.2.1"),
        ),
        "at most 1 per 1 minute (TOLLKEEPER_RATE_LIMIT_LOGIN)": (
            lambda: throttle.check_logins("192.0.2.1"),
            lambda: throttle.check_login("ada@example.com", "192.0.2.1"),
            lambda: throttle.check_key_creation(ADA),
            lambda: throttle.count_failure("192.0.2.1"),
            lambda: throttle.check_failures("192.0.2.1"),
        ),
    }
    with freeze_time("2026-01-01T00:00:00Z"):
        for text, checks in limits.items():
            for check in checks:
                with pytest.raises(RateLimited) as raised:
                    await repeat(check, 4)
                assert raised.value.detail == f"Too many requests: {text}."
                assert raised.value.retry_after_s is not None


async def test_reads_are_counted_per_user_and_documents_per_network_apart_from_calls() -> None:
    throttle = Throttle(login="off", ai="1/minute", reads="1/minute", clock=SystemClock())
    await throttle.check(ADA)
    await throttle.check_read(ADA)
    await throttle.check_read(BOB)
    await throttle.check_document("2001:db8::1")
    await throttle.check_document("192.0.2.1")
    with pytest.raises(RateLimited):
        await throttle.check_read(ADA)
    with pytest.raises(RateLimited):
        await throttle.check_document("2001:db8::2")


async def test_failures_are_counted_apart_and_checked_without_being_counted() -> None:
    throttle = Throttle(login="2/minute", ai="off", clock=SystemClock())
    for _ in range(5):
        await throttle.check_failures("192.0.2.1")
    await throttle.count_failure("192.0.2.1")
    await throttle.count_failure("192.0.2.1")
    with pytest.raises(RateLimited):
        await throttle.check_failures("192.0.2.1")
    with pytest.raises(RateLimited):
        await throttle.count_failure("192.0.2.1")
    await throttle.check_failures("192.0.2.2")


async def test_failures_are_forgotten_when_their_window_ends() -> None:
    throttle = Throttle(login="2/minute", ai="off", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        for _ in range(2):
            await throttle.count_failure("192.0.2.1")
        with pytest.raises(RateLimited):
            await throttle.check_failures("192.0.2.1")
        frozen.tick(61)
        await throttle.check_failures("192.0.2.1")


async def test_open_sockets_are_limited_per_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollkeeper.rate_limits.throttle.MAX_SOCKETS_PER_USER", 1)
    throttle = Throttle(login="off", ai="off", clock=SystemClock())
    with throttle.open_socket(ADA):
        with pytest.raises(RateLimited), throttle.open_socket(ADA):
            pass
        with throttle.open_socket(replace(ADA, user_id=99)):
            pass
    with throttle.open_socket(ADA):
        pass


async def test_steps_of_single_sign_on_are_limited_per_address() -> None:
    throttle = Throttle(login="off", ai="off", reads="2/minute", clock=SystemClock())
    for _ in range(2):
        await throttle.check_sign_on("192.0.2.1")
    await throttle.check_sign_on("192.0.2.2")
    with pytest.raises(RateLimited, match="TOLLKEEPER_RATE_LIMIT_READS"):
        await throttle.check_sign_on("192.0.2.1")


async def test_the_tightest_limit_of_a_caller_is_returned_with_what_is_left_of_it() -> None:
    throttle = Throttle(login="off", ai="10/second;12/minute", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        assert await throttle.check(ADA) == RequestRate("calls-1s", 10, 9, 1, 1_767_225_601_000)
        for _ in range(8):
            await throttle.check(ADA)
        frozen.tick(2)
        assert await throttle.check(ADA) == RequestRate("calls-60s", 12, 2, 60, 1_767_225_660_000)
        assert await throttle.check_read(ADA) is None


async def test_a_plan_replaces_the_limit_of_users_and_limits_all_users_of_its_tenant_together() -> None:
    throttle = Throttle(login="off", ai="1/minute", reads="1/minute", clock=SystemClock())
    throttle.configure({ADA.tenant_id: PlanRates(calls_per_user="3/minute", calls_per_tenant="4/minute")})
    carol, stranger = replace(ADA, user_id=7), replace(ADA, user_id=8, tenant_id=2)
    with freeze_time("2026-01-01T00:00:00Z"):
        await throttle.check(stranger)
        with pytest.raises(RateLimited, match="RATE_LIMIT_AI"):
            await throttle.check(stranger)
        rates = [await throttle.check(ADA) for _ in range(3)]
        assert [rate and (rate.name, rate.remaining) for rate in rates] == [
            ("calls-60s", 2),
            ("calls-60s", 1),
            ("calls-60s", 0),
        ]
        for _ in range(5):
            with pytest.raises(RateLimited, match=r"at most 3 per 1 minute \(the plan of your tenant\)"):
                await throttle.check(ADA)
        assert await throttle.check(carol) == RequestRate("tenant-calls-60s", 4, 0, 60, 1_767_225_660_000)
        with pytest.raises(RateLimited, match="the plan of your tenant for all users together") as raised:
            await throttle.check(carol)
        assert (raised.value.policy, raised.value.limit, raised.value.retry_after_s) == ("tenant-calls-60s", 4, 60)
        assert throttle.refusals["plan"] == 6
        await throttle.check_read(ADA)
        with pytest.raises(RateLimited, match="RATE_LIMIT_READS"):
            await throttle.check_read(ADA)
        throttle.configure({})
        await throttle.check(ADA)
        with pytest.raises(RateLimited, match="RATE_LIMIT_AI"):
            await throttle.check(ADA)
