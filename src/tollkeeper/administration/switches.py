"""Models and providers: switch one off for all tenants, and on again. Calls in flight are not stopped."""

from typing import NamedTuple

from tollkeeper.administration.administrator import Administrator
from tollkeeper.audit_log.models import INSTALLATION
from tollkeeper.configuration import switches
from tollkeeper.configuration.models import SwitchedOff
from tollkeeper.configuration.switches import Switchable
from tollkeeper.errors import NotFound
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import NO_SUCH_PROVIDER, Catalog


class ModelState(NamedTuple):
    """A model of the list, or one that is off and not in the list; `model` is None if it is not in the catalog any
    more. `off` is None while the model itself is on; it cannot be called either if all of its providers are off.
    """

    name: str
    model: Model | None
    aliases: tuple[str, ...]
    off: SwitchedOff | None
    can_be_called: bool


class ProviderState(NamedTuple):
    """A provider. `off` is None while it is on. `takes_keys`: tenants may give their own keys for it."""

    name: str
    off: SwitchedOff | None
    takes_keys: bool


async def list_models(admin: Administrator, catalog: Catalog) -> list[ModelState]:
    """All listed models and all that are off, by name. Raises Forbidden for anyone but operators."""
    admin.require_operator()
    found = await switches.list_switched_off(admin.session)
    off = {catalog.switch_name(one.name): one for one in found if one.kind == Switchable.MODEL}
    off_providers = {one.name for one in found if one.kind == Switchable.PROVIDER}
    states = []
    for listed in catalog.all_models():
        row = next((off[name] for name in catalog.switch_names(listed.model) if name in off), None)
        states.append(_model_state(listed.model, listed.aliases, row, off_providers))
    known = {name for state in states if state.model is not None for name in catalog.switch_names(state.model)[:1]}
    for name, row in off.items():
        if name not in known:
            states.append(_unlisted(catalog, row))
    return sorted(states, key=lambda state: state.name)


async def list_providers(admin: Administrator, catalog: Catalog) -> list[ProviderState]:
    """All providers, by name. Raises Forbidden for anyone but operators."""
    admin.require_operator()
    found = await switches.list_switched_off(admin.session)
    off = {one.name: one for one in found if one.kind == Switchable.PROVIDER}
    return [
        ProviderState(name, off.get(name), name in catalog.providers_with_keys)
        for name in sorted({*catalog.provider_names, *off})
    ]


async def switch_off(admin: Administrator, catalog: Catalog, kind: Switchable, name: str, reason: str) -> str:
    """Switch a model or provider off. Does nothing if it is off. Returns the name under which it is stored.

    Raises Forbidden for anyone but operators; NotFound, ModelNotFound.
    """
    admin.require_operator()
    stored = _existing_name(catalog, kind, name)
    if await switches.switch_off(admin.session, kind, stored, reason, admin.now_ms):
        await admin.note(INSTALLATION, f"{kind}.off", f"{kind}:{stored}", reason=reason)
    return stored


async def switch_on(admin: Administrator, catalog: Catalog, kind: Switchable, name: str) -> str:
    """Switch a model or provider on again. Does nothing if it is on. Returns the name under which it was stored.

    Raises Forbidden for anyone but operators; NotFound, ModelNotFound for a name that is neither known nor off.
    """
    admin.require_operator()
    wanted = catalog.switch_name(name) if kind is Switchable.MODEL else name
    rows = [one for one in await switches.list_switched_off(admin.session) if one.kind == kind]
    same = [one for one in rows if (catalog.switch_name(one.name) if kind is Switchable.MODEL else one.name) == wanted]
    if not same:
        return _existing_name(catalog, kind, name)
    for row in same:
        if await switches.switch_on(admin.session, kind, row.name):
            await admin.note(INSTALLATION, f"{kind}.on", f"{kind}:{row.name}")
    return wanted


def _existing_name(catalog: Catalog, kind: Switchable, name: str) -> str:
    """The name under which a model or provider is switched off. Raises NotFound, ModelNotFound."""
    if kind is Switchable.MODEL:
        return catalog.switch_names(catalog.configured_model(name))[0]
    if name not in catalog.provider_names:
        raise NotFound(NO_SUCH_PROVIDER)
    return name


def _model_state(
    model: Model, aliases: tuple[str, ...], off: SwitchedOff | None, off_providers: set[str]
) -> ModelState:
    places = (model,) if model.deployments is None else model.deployments.models
    served = any(place.provider.name not in off_providers for place in places)
    return ModelState(model.name, model, aliases, off, off is None and served)


def _unlisted(catalog: Catalog, off: SwitchedOff) -> ModelState:
    """A model that is off and not in the list."""
    try:
        return ModelState(off.name, catalog.configured_model(off.name), (), off, can_be_called=False)
    except NotFound:
        return ModelState(off.name, None, (), off, can_be_called=False)
