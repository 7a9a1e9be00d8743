"""Providers that are called with a tenant's own key. Each has connections and a circuit breaker of its own."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import structlog
from pydantic import SecretStr

from tollkeeper.errors import SealBroken, TenantKeyRefused
from tollkeeper.providers.base import Provider
from tollkeeper.providers.kind import MakeWithKey
from tollkeeper.providers.retirement import Retirement

log = structlog.get_logger("tollkeeper.providers")


class TenantKey(NamedTuple):
    """A tenant's own key for a provider. `read` decrypts it, or raises SealBroken. A new key has a new `id`."""

    tenant_id: int
    provider: str
    id: str
    read: Callable[[], SecretStr]


class TenantProvider:
    """A provider with a tenant's own key. It is made when it is first called. `make` is None if it cannot be."""

    def __init__(self, key: TenantKey, make: MakeWithKey | None) -> None:
        self.key = key
        self._make = make
        self.made: Provider | None = None

    def get(self) -> Provider:
        """Raises TenantKeyRefused if there is no key to call it with: the operator's key is never used instead."""
        if self.made is None:
            self.made = self._make_it()
        return self.made

    def _make_it(self) -> Provider:
        if self._make is not None:
            try:
                return self._make(self.key.read())
            except SealBroken:
                log.error("providers.tenant_key_unreadable", key=self.key.id, tenant_id=self.key.tenant_id)
        raise TenantKeyRefused(
            "Your tenant's own key for the AI provider cannot be used. Its administrator can set it."
        )


class TenantProviders:
    """The providers with tenants' own keys. `makers` make one, by the name of the provider.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, makers: Mapping[str, MakeWithKey], *, now: Callable[[], float] = time.monotonic) -> None:
        self.makers = makers
        self._by_key: dict[str, TenantProvider] = {}
        self._retired = Retirement(now)

    @property
    def names(self) -> Collection[str]:
        """The providers that can be called with a tenant's own key."""
        return self.makers.keys()

    @property
    def all(self) -> Collection[TenantProvider]:
        """One for each key that is set."""
        return self._by_key.values()

    def replace(self, keys: Iterable[TenantKey]) -> Mapping[int, Mapping[str, TenantProvider]]:
        """The providers for these keys, by tenant and name, in place of those before. Those that stay are the same."""
        before, self._by_key = self._by_key, {}
        by_tenant: dict[int, dict[str, TenantProvider]] = {}
        for key in keys:
            one = before.pop(key.id, None) or TenantProvider(key, self.makers.get(key.provider))
            self._by_key[key.id] = by_tenant.setdefault(key.tenant_id, {})[key.provider] = one
        self._retire(before.values())
        return by_tenant

    def change_makers(self, makers: Mapping[str, MakeWithKey]) -> None:
        """Make providers with these from now on. Call `replace` next: those of other makers are retired."""
        before, self.makers = self.makers, makers
        outdated = [
            key_id
            for key_id, one in self._by_key.items()
            if before.get(one.key.provider) is not makers.get(one.key.provider)
        ]
        self._retire([self._by_key.pop(key_id) for key_id in outdated])

    def _retire(self, replaced: Iterable[TenantProvider]) -> None:
        for one in replaced:
            if one.made is not None:
                self._retired.add(one.made)

    async def close_retired(self) -> None:
        """Close the providers that were replaced so long ago that no call uses them."""
        await self._retired.close()

    async def close(self) -> None:
        """Close all."""
        self.replace(())
        await self._retired.close(older_than_s=0)
