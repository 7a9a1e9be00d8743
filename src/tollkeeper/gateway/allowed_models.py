"""Which models a caller may use: all, or those that the caller's API key is limited to.

The names in a key's limits are resolved as those of calls are: a key for an alias allows its model by all names, and no
alias, fallback or default leads to a model that the key does not allow.
"""

from tollkeeper.errors import ModelNotFound
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.resolver import ListedModel


def require_model(catalog: Catalog, caller: Principal, name: str | None) -> None:
    """Raises Forbidden if the caller may not use the model of this name, the default model for None; ModelNotFound."""
    if caller.limits.models is None:
        return
    if not is_allowed(catalog, caller, catalog.configured_model(name or catalog.default_name)):
        raise caller.limits.model_refusal()


def is_allowed(catalog: Catalog, caller: Principal, model: Model) -> bool:
    """Whether the caller may use a model."""
    names = caller.limits.models
    return names is None or model.name in names or any(_resolve(catalog, name) == model.name for name in names)


def allowed_models(catalog: Catalog, caller: Principal) -> list[ListedModel]:
    """Those of the listed models that the caller may use, in their order."""
    return [listed for listed in catalog.listed_models() if is_allowed(catalog, caller, listed.model)]


def _resolve(catalog: Catalog, name: str) -> str | None:
    try:
        return catalog.configured_model(name).name
    except ModelNotFound:
        return None
