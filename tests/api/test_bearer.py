"""Which credential of a request counts, and what failures cost."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Scope

from tollkeeper.api.bearer import authenticate
from tollkeeper.clock import SystemClock
from tollkeeper.errors import Forbidden, RateLimited, Unauthenticated
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.rate_limits.throttle import Throttle

ANN = Principal(1, 1, Role.MEMBER, 0)
ANN_WITH_KEY = Principal(1, 1, Role.MEMBER, 0, api_key="key_1")
BEN = Principal(2, 1, Role.MEMBER, 0)
CREDENTIALS = {"ann.access.token": ANN, "tk-ann": ANN_WITH_KEY, "tk-ben": BEN}
LIMIT = 5


class Guarded:
    """An authenticator that notes which credentials it verified, and a throttle that allows LIMIT failures."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.throttle = Throttle(login=f"{LIMIT}/minute", ai="off", clock=SystemClock())
        self._authenticator: Any = SimpleNamespace(verify=self._verify, costs_a_lookup=lambda key: key[:3] == "tk-")

    async def _verify(self, credential: str, _access: Access, _address: str) -> Principal:
        self.verified.append(credential)
        if credential == "tk-without-scope":
            raise Forbidden
        if credential not in CREDENTIALS:
            raise Unauthenticated
        return CREDENTIALS[credential]

    async def caller(self, *headers: tuple[str, str]) -> Principal:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        scope: Scope = {"type": "http", "headers": raw, "client": ("192.0.2.1", 1)}
        return await authenticate(self._authenticator, self.throttle, scope, Access.AI)

    async def both(self, bearer: str, key: str) -> Principal:
        return await self.caller(("x-api-key", key), ("authorization", f"Bearer {bearer}"))


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


@pytest.mark.parametrize("anything", ["anything", "tk-wrong", "a.b.c", "", "Bearer x", "ü"])
async def test_the_valid_one_of_two_credentials_counts(guarded: Guarded, anything: str) -> None:
    assert await guarded.both("ann.access.token", anything) == ANN
    assert await guarded.both(anything, "tk-ann") == ANN_WITH_KEY


async def test_of_two_valid_credentials_of_one_user_that_of_authorization_counts(guarded: Guarded) -> None:
    assert await guarded.both("ann.access.token", "tk-ann") == ANN
    assert await guarded.both("tk-ann", "ann.access.token") == ANN_WITH_KEY


async def test_two_equal_credentials_are_verified_once(guarded: Guarded) -> None:
    assert await guarded.both("tk-ann", "tk-ann") == ANN_WITH_KEY
    assert guarded.verified == ["tk-ann"]


async def test_valid_credentials_of_two_users_are_refused(guarded: Guarded) -> None:
    with pytest.raises(Unauthenticated):
        await guarded.both("ann.access.token", "tk-ben")


async def test_a_valid_key_without_the_scope_is_refused_as_such(guarded: Guarded) -> None:
    with pytest.raises(Forbidden):
        await guarded.both("ann.access.token", "tk-without-scope")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Basic eA==")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer ann.access.token"), ("authorization", "Bearer ann.access.token")],
        [("x-api-key", "tk-ann"), ("x-api-key", "tk-ann")],
        [("authorization", "Bearer ann.access.token"), ("x-api-key", "tk-ann"), ("x-api-key", "tk-ann")],
        [("authorization", "Bearer wrong"), ("x-api-key", "tk-wrong")],
    ],
)
async def test_a_request_without_one_valid_credential_is_refused(
    guarded: Guarded, headers: list[tuple[str, str]]
) -> None:
    with pytest.raises(Unauthenticated):
        await guarded.caller(*headers)


async def test_a_header_of_another_scheme_beside_a_valid_key_is_ignored(guarded: Guarded) -> None:
    assert await guarded.caller(("authorization", "Basic eA=="), ("x-api-key", "tk-ben")) == BEN


async def test_guesses_beside_a_valid_credential_are_limited_and_the_valid_one_still_passes(guarded: Guarded) -> None:
    """Beyond the limit, no further guess is looked up."""
    for number in range(3 * LIMIT):
        assert await guarded.both("ann.access.token", f"tk-{number}") == ANN
    looked_up = [credential for credential in guarded.verified if credential.startswith("tk-")]
    assert len(looked_up) == LIMIT
    assert await guarded.both("ann.access.token", "tk-ben") == ANN
    with pytest.raises(RateLimited):
        await guarded.caller(("x-api-key", "tk-anything"))


async def test_a_placeholder_beside_a_valid_credential_is_no_guess(guarded: Guarded) -> None:
    """Some clients send one with every request. It must not use up the failures of an office behind one address."""
    for _ in range(3 * LIMIT):
        assert await guarded.both("ann.access.token", "anything") == ANN
    with pytest.raises(Unauthenticated):
        await guarded.caller(("x-api-key", "anything"))


async def test_two_wrong_credentials_count_as_two_failures(guarded: Guarded) -> None:
    refusals: list[type[Exception]] = []
    for number in range(LIMIT):
        with pytest.raises((Unauthenticated, RateLimited)) as refused:
            await guarded.both(f"tk-{number}", f"tk-other-{number}")
        refusals.append(refused.type)
    assert refusals[-1] is RateLimited
    assert len(guarded.verified) <= LIMIT + 1
