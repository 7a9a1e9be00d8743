"""A model at several providers: a call that fails at one goes to another, as a charge of its own."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from support.gateway import FakeProvider, GatewayUnderTest, open_gateway, text_chunk
from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.gateway import attempts
from tollkeeper.gateway.results import CallFailed
from tollkeeper.providers.base import Model
from tollkeeper.providers.deployments import Deployments

UNBILLED = (
    errors.ProviderUnavailable,
    errors.ProviderFailed,
    errors.ProviderRateLimited,
    errors.ProviderAuthFailed,
    errors.ProviderLacksModel,
)


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url) as opened:
        yield opened


def deploy(gateway: GatewayUnderTest, *names: str, fallbacks: tuple[str, ...] = ()) -> list[FakeProvider]:
    """Serve the model `m` from providers of these names. The first that is ready is chosen."""
    providers = [FakeProvider(name) for name in names]
    known = gateway.models["m"]
    models = [replace(known, provider=one, fallbacks=fallbacks) for one in providers]
    pool = Deployments(models, [1] * len(models), choose=lambda ready, _: ready[0])
    gateway.models["m"] = pool.models[-1]
    return providers


def fail(provider: FakeProvider, *failures: Exception) -> None:
    provider.completions[:0] = failures
    provider.streams[:0] = [[one] for one in failures]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", UNBILLED)
async def test_a_call_that_fails_unbilled_goes_to_another_deployment_as_a_charge_of_its_own(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    first, second = deploy(gateway, "east", "west")
    fail(first, kind(), kind())
    result = await (gateway.stream() if streaming else gateway.complete())
    assert (result.model, result.provider, result.completion.text) == ("m", "west", "yes")
    charges = {charge.provider: charge for charge in await gateway.charges()}
    assert (charges["east"].state, charges["east"].cost_tokens, charges["east"].error) == ("released", 0, kind.code)
    assert (charges["west"].state, charges["west"].cost_tokens, charges["west"].error) == ("settled", 50, None)
    assert {charge.model for charge in charges.values()} == {"m"}
    assert charges["west"].held_tokens == charges["east"].held_tokens
    assert (len(first.calls), len(second.calls)) == (1, 1)


async def test_the_next_calls_avoid_a_deployment_that_limits_the_rate(gateway: GatewayUnderTest) -> None:
    first, second = deploy(gateway, "east", "west")
    fail(first, errors.ProviderRateLimited(retry_after_s=60))
    for _ in range(3):
        assert (await gateway.complete()).provider == "west"
    assert (len(first.calls), len(second.calls)) == (1, 3)


@pytest.mark.parametrize("kind", [errors.ProviderTimeout, errors.ProviderBadResponse, errors.ProviderRejected])
async def test_a_call_that_may_be_billed_or_was_rejected_goes_to_no_other_deployment(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError]
) -> None:
    first, second = deploy(gateway, "east", "west")
    fail(first, kind())
    with pytest.raises(CallFailed):
        await gateway.complete()
    assert (len(first.calls), second.calls) == (1, [])


async def test_a_stream_goes_to_no_other_deployment_after_its_first_output(gateway: GatewayUnderTest) -> None:
    first, second = deploy(gateway, "east", "west")
    first.streams = [[text_chunk("no"), errors.ProviderFailed()]]
    with pytest.raises(CallFailed):
        await gateway.stream()
    assert second.calls == []
    assert (await gateway.charge()).cost_tokens > 0


async def test_each_deployment_is_called_once_and_then_the_fallback(gateway: GatewayUnderTest) -> None:
    providers = deploy(gateway, "east", "west", "north", fallbacks=("second",))
    spare = FakeProvider("spare")
    gateway.models["second"] = Model("second", spare)
    for provider in providers:
        fail(provider, *[errors.ProviderUnavailable()] * 3)
    assert (await gateway.complete()).provider == "spare"
    assert [len(provider.calls) for provider in (*providers, spare)] == [1, 1, 1, 1]
    assert len(await gateway.charges()) == 4


async def test_a_fallback_with_several_deployments_uses_them_in_turn(gateway: GatewayUnderTest) -> None:
    first, second = deploy(gateway, "east", "west")
    gateway.models["spread"] = gateway.models["m"]
    gateway.models["m"] = Model("only", gateway.provider, fallbacks=("spread",))
    gateway.provider.completions = [errors.ProviderAuthFailed()]
    fail(first, errors.ProviderRateLimited())
    assert (await gateway.complete()).provider == "west"
    assert [len(provider.calls) for provider in (gateway.provider, first, second)] == [1, 1, 1]


async def test_without_another_deployment_that_is_ready_the_same_one_is_retried(gateway: GatewayUnderTest) -> None:
    first, second = deploy(gateway, "east", "west")
    pool = gateway.models["m"].deployments
    assert pool is not None
    pool.record_failure(pool.models[1], errors.ProviderRateLimited(retry_after_s=60))
    fail(first, errors.ProviderUnavailable())
    assert (await gateway.complete()).provider == "east"
    assert (len(first.calls), second.calls) == (2, [])
    assert (await gateway.charge()).cost_tokens == 50


async def test_a_deployment_that_does_not_take_the_call_is_passed_over(gateway: GatewayUnderTest) -> None:
    first, second, third = deploy(gateway, "east", "west", "north")
    second.prepare_error = errors.UnsupportedParameter(parameter="top_k")
    fail(first, errors.ProviderRateLimited())
    assert (await gateway.complete()).provider == "north"
    assert (second.calls, len(third.calls)) == ([], 1)


async def test_the_last_failure_is_the_one_that_the_caller_sees(gateway: GatewayUnderTest) -> None:
    first, second = deploy(gateway, "east", "west")
    fail(first, errors.ProviderRateLimited())
    second.completions = [errors.ProviderAuthFailed(), Completion("too late", "stop", None)]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    assert isinstance(raised.value.cause, errors.ProviderAuthFailed)
    assert {charge.state for charge in await gateway.charges()} == {"released"}
