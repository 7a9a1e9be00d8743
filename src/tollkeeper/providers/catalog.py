"""The models of this installation: who serves each, and which can be called at this moment.

`resolver.py` finds a model by its name; administrators switch models and providers off, and give tenants' own keys,
while the server runs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from tollkeeper.errors import ModelNotFound
from tollkeeper.providers.availability import Availability
from tollkeeper.providers.base import Model, Provider
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog_file import CatalogFile
from tollkeeper.providers.credentials import CredentialType, CredentialVerdicts, ProviderCredential
from tollkeeper.providers.kind import ConfiguredProvider, MakeWithKey
from tollkeeper.providers.resolver import ListedModel, Resolver
from tollkeeper.providers.retirement import Retirement
from tollkeeper.providers.tenant_providers import TenantKey, TenantProviders

MAX_CACHED_MODELS = 1_000
MAX_NAME_LENGTH = 200
NO_SUCH_PROVIDER = (
    "There is no configured provider with this name. GET /admin/providers and `tollkeeper provider list` list them."
)

_Configured = tuple[Collection[str], Collection[str], Collection[TenantKey]]
"""The last arguments of `Catalog.configure`."""


class Catalog:
    """The models of all providers. A call that names no model gets the model of `default_name`.

    `find` returns the model of a name, or None. `list_models` returns the models to list, `other_defaults` the defaults
    in place of one that is switched off. `switch_names` returns the names by which a model is switched off: it is off
    if any of them is, and its first name is what is stored. `makers` make a provider with a tenant's own key; the
    operator has given a key for the providers `with_key`.
    """

    def __init__(
        self,
        default_name: str,
        find: Callable[[str], Model | None],
        *providers: Provider,
        list_models: Callable[[], Iterable[ListedModel]] = tuple,
        other_defaults: Callable[[], Iterable[str]] = tuple,
        switch_names: Callable[[Model], tuple[str, ...]] = lambda model: (model.name,),
        makers: Mapping[str, MakeWithKey] | None = None,
        with_key: Collection[str] = (),
    ) -> None:
        self.default_name = default_name
        self._configured_default = default_name
        self._other_defaults = other_defaults
        self._find = lru_cache(maxsize=MAX_CACHED_MODELS)(find)
        self._providers = providers
        self._list_models = list_models
        self.switch_names = switch_names
        self._tenant_providers = TenantProviders(makers or {})
        self._with_key = with_key
        self._retired = Retirement()
        self._configured: _Configured = ((), (), ())
        self.verdicts = CredentialVerdicts()
        self._availability: Availability | None = None
        self._plan_models: Mapping[int, Sequence[str]] = {}
        """None while nothing is switched off, and no tenant has a key of its own."""
        self._all: tuple[ListedModel, ...] = ()

    def model(self, name: str | None, tenant_id: int | None = None) -> Model:
        """The model of a name; the default model for None. For a tenant, at providers with the tenant's own keys.

        Raises ModelNotFound, also for a name that cannot be one; ModelSwitchedOff; TenantKeyRefused for a tenant's key
        that cannot be decrypted.
        """
        model = self.configured_model(name or self.default_name)
        if self._availability is None:
            return model
        return self._availability.admit(model, tenant_id)

    def configured_model(self, name: str) -> Model:
        """The model of a name, whether or not it is switched off. Raises ModelNotFound."""
        model = self._find(name) if len(name) <= MAX_NAME_LENGTH and name.isprintable() else None
        if model is None:
            raise ModelNotFound
        return model

    def provider_for(self, name: str, tenant_id: int) -> Provider:
        """The provider of a name itself, without its circuits, with the tenant's own key if there is one.

        Raises ModelNotFound; ModelSwitchedOff; TenantKeyRefused.
        """
        found = next((provider for provider in self._providers if provider.name == name), None)
        if found is None:
            raise ModelNotFound(NO_SUCH_PROVIDER)
        if self._availability is not None:
            found = self._availability.provider_for(found, tenant_id)
        return found.provider if isinstance(found, CircuitBreaker) else found

    @property
    def provider_names(self) -> tuple[str, ...]:
        return tuple(provider.name for provider in self._providers)

    @property
    def breakers(self) -> Iterable[CircuitBreaker]:
        """The circuit breakers of the operator's providers."""
        return [provider for provider in self._providers if isinstance(provider, CircuitBreaker)]

    @property
    def providers_with_keys(self) -> Collection[str]:
        """The providers that can be called with a tenant's own key."""
        return self._tenant_providers.names

    def credentials(self) -> list[ProviderCredential]:
        """The operator's credential of each provider, then the tenants' own keys."""
        own = [
            ProviderCredential(
                provider.name,
                CredentialType.API_KEY if provider.name in self._with_key else CredentialType.NONE,
                self.verdicts.of(provider.name),
            )
            for provider in self._providers
        ]
        of_tenants = [
            ProviderCredential(
                one.key.provider,
                CredentialType.TENANT_KEY,
                self.verdicts.of(one.key.provider, one.key.tenant_id),
                one.key.tenant_id,
                one.key.id,
            )
            for one in self._tenant_providers.all
        ]
        return own + of_tenants

    @property
    def default_provider(self) -> Provider:
        """The provider of the default model, which may be switched off. Raises ModelNotFound."""
        return self.configured_model(self.default_name).provider

    def all_models(self) -> tuple[ListedModel, ...]:
        """The models to list, also those that are switched off, the configured default first. A provider may have
        others that are found by their names.
        """
        if not self._all:
            default = self.configured_model(self._configured_default)
            listed = {one.model.name: one for one in self._list_models()}
            self._all = (listed.pop(default.name, ListedModel(default)), *listed.values())
        return self._all

    def lists(self, name: str) -> bool:
        """Whether this is the name of a model to list."""
        return any(one.model.name == name for one in self.all_models())

    @property
    def has_plans(self) -> bool:
        """Whether there is a tenant whose plan names its models."""
        return bool(self._plan_models)

    def models_in_plan(self, tenant_id: int) -> Sequence[str] | None:
        """The names of the models in the plan of a tenant; None for all."""
        return self._plan_models.get(tenant_id)

    def limit_to_plans(self, models: Mapping[int, Sequence[str]]) -> None:
        """Take these names of models, by tenant, in place of those before."""
        self._plan_models = models

    def listed_models(self) -> tuple[ListedModel, ...]:
        """The models that can be called, the default first. Empty if all are switched off."""
        listed = [one for one in self.all_models() if self.is_on(one.model)]
        default = self.configured_model(self.default_name).name
        return tuple(sorted(listed, key=lambda one: one.model.name != default))

    def is_on(self, model: Model) -> bool:
        """Whether the model can be called."""
        return self._availability is None or self._availability.is_on(model)

    def switch_name(self, name: str) -> str:
        """The name under which a model is switched off; a name without a model is its own."""
        try:
            return self.switch_names(self.configured_model(name))[0]
        except ModelNotFound:
            return name

    async def configure(
        self, off_models: Collection[str], off_providers: Collection[str], keys: Iterable[TenantKey]
    ) -> None:
        """Apply what administrators have configured, in place of what was configured before. Calls in flight go on."""
        self._configured = off_models, off_providers, tuple(keys)
        before = {one.key.id: one.key for one in self._tenant_providers.all}
        own = self._tenant_providers.replace(self._configured[2])
        for key_id in before.keys() - {one.key.id for one in self._tenant_providers.all}:
            self.verdicts.forget(before[key_id].provider, before[key_id].tenant_id)
        off = frozenset(map(self.switch_name, off_models))
        if off or off_providers or own:
            self._availability = Availability(off, frozenset(off_providers), own, self.switch_names)
        else:
            self._availability = None
        self.default_name = self._default_that_is_on()
        await self._retired.close()
        await self._tenant_providers.close_retired()

    async def adopt(self, other: "Catalog") -> None:
        """Take the models and providers of another catalog in place of these. What administrators have configured
        stays. Calls in flight go on with the models and prices that they have.
        """
        for provider in self._providers:
            if not any(provider is kept for kept in other._providers):
                self._retired.add(provider)
                self.verdicts.forget(provider.name)
        self._configured_default = other._configured_default
        self._other_defaults = other._other_defaults
        self._find = other._find
        self._providers = other._providers
        self._list_models = other._list_models
        self.switch_names = other.switch_names
        self._with_key = other._with_key
        self._all = ()
        self._tenant_providers.change_makers(other._tenant_providers.makers)
        await self.configure(*self._configured)

    def _default_that_is_on(self) -> str:
        """The configured default; if it is off, the first of its fallbacks and of the other defaults that is on."""
        default = self._configured_default
        others = (*self.configured_model(default).fallbacks, *self._other_defaults())
        for name in (default, *others):
            if self.is_on(self.configured_model(name)):
                return name
        return default

    async def close(self) -> None:
        await self._tenant_providers.close()
        await self._retired.close(older_than_s=0)
        for provider in self._providers:
            await provider.close()


def build_catalog(configured: Iterable[ConfiguredProvider], file: CatalogFile | None = None) -> Catalog:
    """The catalog of these providers and of the operator's file.

    Raises ConfigurationError that names the place of a mistake.
    """
    by_name = {one.provider.name: one for one in configured}
    resolver = Resolver(by_name, file or CatalogFile())
    return Catalog(
        resolver.default_name(),
        resolver.find,
        *(one.provider for one in by_name.values()),
        list_models=resolver.list_models,
        other_defaults=resolver.usual_defaults,
        switch_names=resolver.switch_names,
        makers={name: one.with_key for name, one in by_name.items() if one.with_key is not None},
        with_key={name for name, one in by_name.items() if one.has_key},
    )
