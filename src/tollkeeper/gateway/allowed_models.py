"""Which models a caller may use: all, or those that the caller's API key and the plan of their tenant name.

The names in these limits are resolved as those of calls are: a key for an alias allows its model by all names, and no
alias, fallback or default leads to a model that the key does not allow.
"""

from collections.abc import Sequence

from tollkeeper.errors import Forbidden, ModelNotFound
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.resolver import ListedModel


def require_model(catalog: Catalog, caller: Principal, name: str | None) -> None:
    """Raises Forbidden if the caller may not use the model of this name, the default model for None; ModelNotFound."""
    if caller.limits.models is None and not catalog.has_plans:
        return
    model = catalog.configured_model(name or catalog.default_name)
    if not _names(catalog, caller.limits.models, model):
        raise caller.limits.model_refusal()
    if not is_in_plan(catalog, caller.tenant_id, model):
        raise Forbidden("The plan of your tenant does not have this model. GET /ai/models lists those that it has.")


def is_allowed(catalog: Catalog, caller: Principal, model: Model) -> bool:
    """Whether the caller may use a model."""
    return _names(catalog, caller.limits.models, model) and is_in_plan(catalog, caller.tenant_id, model)


def is_in_plan(catalog: Catalog, tenant_id: int, model: Model) -> bool:
    """Whether the plan of a tenant has a model. A tenant without a plan has all."""
    return _names(catalog, catalog.models_in_plan(tenant_id), model)


def _names(catalog: Catalog, names: Sequence[str] | None, model: Model) -> bool:
    """Whether one of these names is the model's; None stands for all models."""
    return names is None or model.name in names or any(_resolve(catalog, name) == model.name for name in names)


def allowed_models(catalog: Catalog, caller: Principal) -> list[ListedModel]:
    """Those of the listed models that the caller may use, in their order."""
    return [listed for listed in catalog.listed_models() if is_allowed(catalog, caller, listed.model)]


def _resolve(catalog: Catalog, name: str) -> str | None:
    try:
        return catalog.configured_model(name).name
    except ModelNotFound:
        return None
