"""What is kept, for how long, and for whom."""

from dataclasses import dataclass

from tollkeeper.response_cache.memory import ENTRY_BYTES, ResponseCache
from tollkeeper.response_cache.questions import CacheScope, Owner

OWNER = Owner(1, 2)


@dataclass
class Time:
    s: float = 0.0


def make(entries: int = 3, seconds: float = 60) -> tuple[ResponseCache[str], Time]:
    time = Time()
    return ResponseCache[str](max_bytes=entries * (ENTRY_BYTES + 10), seconds=seconds, now=lambda: time.s), time


def put(cache: ResponseCache[str], name: str, size: int = 10, generation: int = 0) -> None:
    cache.put(OWNER, name.encode(), name, size=size, generation=generation)


def test_an_answer_is_kept_for_its_time_and_returned_with_its_age() -> None:
    cache, time = make(seconds=60)
    put(cache, "a")
    time.s = 59.5
    assert cache.get(OWNER, b"a") == ("a", 59.5)
    time.s = 60
    assert cache.get(OWNER, b"a") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_owner_is_compared_even_where_the_key_is_the_same() -> None:
    cache, _ = make()
    put(cache, "a")
    for other in (Owner(2, 2), Owner(1, 3), Owner(1, None)):
        assert cache.get(other, b"a") is None
    assert cache.get(OWNER, b"a") is not None


def test_the_least_recently_used_answer_goes_first_and_the_bytes_are_bounded() -> None:
    cache, _ = make(entries=3)
    for name in "abc":
        put(cache, name)
    assert cache.get(OWNER, b"a") is not None
    put(cache, "d")
    assert [name for name in "abcd" if cache.get(OWNER, name.encode())] == ["a", "c", "d"]
    put(cache, "a")
    assert cache.bytes == 3 * (ENTRY_BYTES + 10)
    put(cache, "large", size=ENTRY_BYTES)
    assert [name for name in ("a", "large") if cache.get(OWNER, name.encode())] == ["a", "large"]
    put(cache, "too large", size=10 * ENTRY_BYTES)
    assert cache.get(OWNER, b"too large") is None
    assert cache.bytes <= 3 * (ENTRY_BYTES + 10)


def test_a_change_of_the_configuration_removes_all_answers_and_those_of_questions_before_it() -> None:
    cache, _ = make()
    generation = cache.generation
    put(cache, "a")
    cache.configure({})
    assert (len(cache), cache.bytes) == (0, 0)
    put(cache, "b", generation=generation)
    assert len(cache) == 0
    put(cache, "b", generation=cache.generation)
    assert len(cache) == 1


def test_for_whom_the_cache_is_on() -> None:
    cache, _ = make()
    assert cache.owner_for(1, 2, wanted=None) is None
    assert cache.owner_for(1, 2, wanted=True) == Owner(1, 2)
    cache.configure({1: CacheScope.USER, 2: CacheScope.TENANT})
    for wanted in (None, True):
        assert cache.owner_for(1, 2, wanted=wanted) == Owner(1, 2)
        assert cache.owner_for(2, 2, wanted=wanted) == Owner(2, None)
    assert [cache.owner_for(tenant, 2, wanted=False) for tenant in (1, 2, 3)] == [None] * 3
    off = ResponseCache[str](max_bytes=0, seconds=60)
    assert off.owner_for(1, 2, wanted=True) is None
