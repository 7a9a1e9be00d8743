"""A tenant's own key that the provider refuses, or that cannot be decrypted: never the operator's key in its place."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from support.gateway import FakeProvider, GatewayUnderTest, open_gateway
from tollkeeper import errors
from tollkeeper.gateway.results import CallFailed
from tollkeeper.providers.tenant_providers import TenantKey


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        yield opened


async def break_key(gateway: GatewayUnderTest, provider: str) -> None:
    """The caller's tenant has a key for the provider that cannot be decrypted."""

    def read() -> SecretStr:
        raise errors.SealBroken

    await gateway.inner.catalog.configure((), (), [TenantKey(gateway.caller.tenant_id, provider, "k", read)])


@pytest.mark.parametrize("own", [False, True])
async def test_the_caller_and_the_log_read_whose_key_was_refused(gateway: GatewayUnderTest, own: bool) -> None:
    refused = errors.ProviderAuthFailed()
    refused.upstream = errors.UpstreamError(401, "invalid_api_key")
    gateway.provider.completions[:] = [refused]
    gateway.set_model(with_tenant_key=own)
    with pytest.raises(CallFailed) as failed:
        await gateway.complete()
    code = "tenant_key_refused" if own else "provider_auth_failed"
    assert failed.value.cause.code == code
    (event,) = gateway.seen
    assert (event.error, event.attempts[0].error, event.attempts[0].status) == (code, code, 401)
    assert len(gateway.provider.calls) == 1


async def test_without_a_usable_key_nothing_is_reserved(gateway: GatewayUnderTest) -> None:
    await break_key(gateway, "fake")
    with pytest.raises(errors.TenantKeyRefused):
        await gateway.complete()
    assert await gateway.charges() == []
    assert gateway.provider.calls == []


async def test_a_fallback_without_a_usable_key_is_skipped(gateway: GatewayUnderTest) -> None:
    other = FakeProvider("other")
    gateway.set_model(fallbacks=("elsewhere", "second"))
    gateway.set_model("elsewhere", provider=other, fallbacks=())
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions.insert(0, errors.ProviderRateLimited())
    await break_key(gateway, "other")
    assert (await gateway.complete()).model == "second"
    assert other.calls == []
