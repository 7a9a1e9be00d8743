"""Coarse limits on requests: per user, per account, in fixed windows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from freezegun import freeze_time

from tollkeeper import throttle as module
from tollkeeper.clock import SystemClock
from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal, Role
from tollkeeper.throttle import LoopStorage, Throttle

ADA, BOB = (Principal(number, 1, Role.MEMBER, 0) for number in (1, 2))


def test_each_user_has_a_budget_and_it_comes_back() -> None:
    throttle = Throttle(login="off", ai="2/minute", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:10Z") as frozen:
        throttle.check(ADA)
        throttle.check(ADA)
        with pytest.raises(RateLimited) as raised:
            throttle.check(ADA)
        assert raised.value.retry_after_s == 60
        throttle.check(BOB)
        frozen.tick(60)
        throttle.check(ADA)


def test_several_limits_hold_together() -> None:
    throttle = Throttle(login="off", ai="2/second;3/minute", clock=SystemClock())
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        throttle.check(ADA)
        throttle.check(ADA)
        with pytest.raises(RateLimited):
            throttle.check(ADA)
        frozen.tick(2)
        throttle.check(ADA)
        with pytest.raises(RateLimited) as raised:
            throttle.check(ADA)
        assert raised.value.retry_after_s == 58


def test_logins_are_counted_per_account_apart_from_calls() -> None:
    throttle = Throttle(login="1/minute", ai="1/minute", clock=SystemClock())
    throttle.check_login("ada@example.com", "127.0.0.1")
    throttle.check_login("bob@example.com", "127.0.0.1")
    throttle.check(ADA)
    with pytest.raises(RateLimited):
        throttle.check_login("ada@example.com", "127.0.0.1")


def test_handshakes_are_counted_per_address_apart_from_logins_and_calls() -> None:
    throttle = Throttle(login="1/minute", ai="1/minute", handshakes="1/minute", clock=SystemClock())
    throttle.check(ADA)
    throttle.check_handshake("127.0.0.1")
    throttle.check_handshake("127.0.0.2")
    throttle.check_login("127.0.0.1", "127.0.0.1")
    with pytest.raises(RateLimited):
        throttle.check_handshake("127.0.0.1")


def test_a_limit_that_is_off_refuses_nothing() -> None:
    throttle = Throttle(login="off", ai="off", reads="off", clock=SystemClock())
    for _ in range(1000):
        throttle.check_read(ADA)
        throttle.check_document("127.0.0.1")
        throttle.check_handshake("127.0.0.1")
        throttle.check(ADA)
        throttle.check_login("ada@example.com", "127.0.0.1")


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


def test_logins_to_an_account_are_counted_per_address_and_network() -> None:
    """Otherwise a stranger could lock the account."""
    throttle = Throttle(login="1/minute", ai="off", clock=SystemClock())
    throttle.check_login("ada@example.com", "192.0.2.1")
    throttle.check_login("ada@example.com", "192.0.2.2")
    throttle.check_login("ada@example.com", "2001:db8::1")
    with pytest.raises(RateLimited):
        throttle.check_login("ada@example.com", "2001:db8::2")


def repeat(check: Callable[[], None], times: int) -> None:
    for _ in range(times):
        check()


def test_every_refusal_by_a_limit_names_the_limit_and_its_setting() -> None:
    throttle = Throttle(login="1/minute", ai="2/hour", reads="3/second", handshakes="2/day", clock=SystemClock())
    limits: dict[str, tuple[Callable[[], None], ...]] = {
        "at most 2 per 1 hour (TOLLKEEPER_RATE_LIMIT_AI)": (lambda: throttle.check(ADA),),
        "at most 2 per 1 day (TOLLKEEPER_RATE_LIMIT_HANDSHAKES)": (lambda: throttle.check_handshake("192.0.2.1"),),
        "at most 3 per 1 second (TOLLKEEPER_RATE_LIMIT_READS)": (
            lambda: throttle.check_read(ADA),
            lambda: throttle.check_document("192.0.2.1"),
        ),
        "at most 1 per 1 minute (TOLLKEEPER_RATE_LIMIT_LOGIN)": (
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
                    repeat(check, 4)
                assert raised.value.detail == f"Too many requests: {text}."
                assert raised.value.retry_after_s is not None


def test_reads_are_counted_per_user_and_documents_per_network_apart_from_calls() -> None:
    throttle = Throttle(login="off", ai="1/minute", reads="1/minute", clock=SystemClock())
    throttle.check(ADA)
    throttle.check_read(ADA)
    throttle.check_read(BOB)
    throttle.check_document("2001:db8::1")
    throttle.check_document("192.0.2.1")
    with pytest.raises(RateLimited):
        throttle.check_read(ADA)
    with pytest.raises(RateLimited):
        throttle.check_document("2001:db8::2")


def test_failures_are_counted_apart_and_checked_without_being_counted() -> None:
    throttle = Throttle(login="2/minute", ai="off", clock=SystemClock())
    for _ in range(5):
        throttle.check_failures("192.0.2.1")
    throttle.count_failure("192.0.2.1")
    throttle.count_failure("192.0.2.1")
    with pytest.raises(RateLimited):
        throttle.check_failures("192.0.2.1")
    with pytest.raises(RateLimited):
        throttle.count_failure("192.0.2.1")
    throttle.check_failures("192.0.2.2")


def test_open_sockets_are_limited_per_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollkeeper.throttle.MAX_SOCKETS_PER_USER", 1)
    throttle = Throttle(login="off", ai="off", clock=SystemClock())
    with throttle.open_socket(ADA):
        with pytest.raises(RateLimited), throttle.open_socket(ADA):
            pass
        with throttle.open_socket(replace(ADA, user_id=99)):
            pass
    with throttle.open_socket(ADA):
        pass


def test_steps_of_single_sign_on_are_limited_per_address() -> None:
    throttle = Throttle(login="off", ai="off", reads="2/minute", clock=SystemClock())
    for _ in range(2):
        throttle.check_sign_on("192.0.2.1")
    throttle.check_sign_on("192.0.2.2")
    with pytest.raises(RateLimited, match="TOLLKEEPER_RATE_LIMIT_READS"):
        throttle.check_sign_on("192.0.2.1")
