"""Which models can be called, and with whose keys, as administrators have configured it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from tollkeeper.errors import ModelSwitchedOff, TenantKeyRefused
from tollkeeper.providers.base import Model, Provider
from tollkeeper.providers.tenant_providers import TenantProvider

PROVIDER_OFF = (
    "The operator has switched off every provider of this model. GET /v1/models lists the models that can be called."
)
MAX_VIEWS = 1_000
"""How many models are kept as tenants see them."""


class Availability:
    """What is switched off, and the tenants' own providers. It does not change: a new one replaces it.

    `off_models` are names as `switch_names` returns them for a model: the model is off if any of its names is.
    `own` are the providers with a tenant's own key, by the tenant's id and the provider's name.
    """

    def __init__(
        self,
        off_models: frozenset[str],
        off_providers: frozenset[str],
        own: Mapping[int, Mapping[str, TenantProvider]],
        switch_names: Callable[[Model], tuple[str, ...]],
    ) -> None:
        self._off_models = off_models
        self._off_providers = off_providers
        self._own = own
        self._switch_names = switch_names
        self._views: dict[tuple[int | None, int], tuple[Model, Model | None]] = {}
        """By tenant and identity of the model, which is kept with its view, so that no other object gets its id."""

    def admit(self, model: Model, tenant_id: int | None) -> Model:
        """The model as a tenant may call it: at the providers that are on, with the tenant's own keys where it has any.

        Raises ModelSwitchedOff; TenantKeyRefused.
        """
        own = self._own.get(tenant_id) if tenant_id is not None else None
        key = (tenant_id if own is not None else None, id(model))
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= MAX_VIEWS:
                self._views.clear()
            found = self._views[key] = model, self._view(model, own or {})
        if found[1] is None:
            raise self._refusal(model)
        return found[1]

    def provider_for(self, provider: Provider, tenant_id: int) -> Provider:
        """The provider as a tenant may call it. Raises ModelSwitchedOff, TenantKeyRefused."""
        if provider.name in self._off_providers:
            raise ModelSwitchedOff(PROVIDER_OFF)
        own = self._own.get(tenant_id, {}).get(provider.name)
        return own.get() if own is not None else provider

    def is_on(self, model: Model) -> bool:
        """Whether any tenant may call the model."""
        return self._view(model, {}) is not None

    def _refusal(self, model: Model) -> ModelSwitchedOff:
        if not self._off_models.isdisjoint(self._switch_names(model)):
            return ModelSwitchedOff()
        return ModelSwitchedOff(PROVIDER_OFF)

    def _view(self, model: Model, own: Mapping[str, TenantProvider]) -> Model | None:
        """Raises TenantKeyRefused if no other provider serves the model."""
        if not self._off_models.isdisjoint(self._switch_names(model)):
            return None
        places = (model,) if model.deployments is None else model.deployments.models
        on = [place for place in places if place.provider.name not in self._off_providers]
        views: list[Model] = []
        refusal: TenantKeyRefused | None = None
        for place in on:
            try:
                views.append(_with_own_provider(place, own))
            except TenantKeyRefused as error:
                refusal = error
        if not views:
            if refusal is not None:
                raise refusal
            return None
        return views[0] if model.deployments is None else model.deployments.view(views)


def _with_own_provider(model: Model, own: Mapping[str, TenantProvider]) -> Model:
    """The model with the tenant's own key, if the tenant has one for its provider. Raises TenantKeyRefused."""
    tenant_provider = own.get(model.provider.name)
    if tenant_provider is None:
        return model
    return replace(model, provider=tenant_provider.get(), with_tenant_key=True)
