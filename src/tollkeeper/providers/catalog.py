"""The models of this installation: who serves each, and which can be called at this moment.

`resolver.py` finds a model by its name; administrators switch models and providers off, and give tenants' own keys,
while the server runs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

from tollkeeper.errors import ModelNotFound
from tollkeeper.providers.availability import Availability
from tollkeeper.providers.base import Model, Provider
from tollkeeper.providers.catalog_file import CatalogFile
from tollkeeper.providers.kind import ConfiguredProvider, MakeWithKey
from tollkeeper.providers.resolver import ListedModel, Resolver
from tollkeeper.providers.tenant_providers import TenantKey, TenantProviders

MAX_CACHED_MODELS = 1_000
MAX_NAME_LENGTH = 200
NO_SUCH_PROVIDER = (
    "There is no configured provider with this name. GET /admin/providers and `tollkeeper provider list` list them."
)


class Catalog:
    """The models of all providers. A call that names no model gets the model of `default_name`.

    `find` returns the model of a name, or None. `list_models` returns the models to list, `other_defaults` the defaults
    in place of one that is switched off. `switch_names` returns the names by which a model is switched off: it is off
    if any of them is, and its first name is what is stored. `makers` make a provider with a tenant's own key.
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
    ) -> None:
        self.default_name = default_name
        self._configured_default = default_name
        self._other_defaults = other_defaults
        self._find = lru_cache(maxsize=MAX_CACHED_MODELS)(find)
        self._providers = providers
        self._list_models = list_models
        self.switch_names = switch_names
        self._tenant_providers = TenantProviders(makers or {})
        self._availability: Availability | None = None
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

    @property
    def provider_names(self) -> tuple[str, ...]:
        return tuple(provider.name for provider in self._providers)

    @property
    def providers_with_keys(self) -> Collection[str]:
        """The providers that can be called with a tenant's own key."""
        return self._tenant_providers.names

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
        own = self._tenant_providers.replace(keys)
        off = frozenset(map(self.switch_name, off_models))
        if off or off_providers or own:
            self._availability = Availability(off, frozenset(off_providers), own, self.switch_names)
        else:
            self._availability = None
        self.default_name = self._default_that_is_on()
        await self._tenant_providers.close_retired()

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
    )
