"""Models and providers: list them with their state, switch one off for all tenants, and on again."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import switches
from tollkeeper.administration.switches import ModelState, ProviderState
from tollkeeper.api.admin.caller import Operator
from tollkeeper.api.admin.pages import Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.native.model_list import PriceResponse, price_response
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.configuration.models import SwitchedOff
from tollkeeper.configuration.switches import Switchable
from tollkeeper.providers.catalog import MAX_NAME_LENGTH

router = APIRouter(prefix="/admin", tags=["admin"])

MAX_REASON_LENGTH = 500

ModelName = Annotated[str, Path(min_length=1, max_length=MAX_NAME_LENGTH, examples=["gpt-4o-mini"])]
ProviderName = Annotated[str, Path(min_length=1, max_length=40, examples=["openai"])]
NameCursor = Annotated[str | None, Query(min_length=1, max_length=250, examples=["gpt-4o-mini"])]
"""The cursor of a list that is ordered by name: the last name of the page before."""


class SwitchOffRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Why it is switched off: for operators and the audit log. Callers do not see it."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_LENGTH, pattern=r"^[^\x00-\x1f\x7f]*$")]


class OffResponse(BaseModel):
    """Why and since when something is off."""

    reason: str
    since: Moment


class AdminModelResponse(BaseModel):
    """A model. `on`: it can be called. `switched_off` is null while the model itself is on: it cannot be called either
    while all of its providers are off. `provider` is null for a model that is not in the catalog any more.
    """

    id: str
    provider: str | None
    providers: list[str]
    aliases: list[str]
    weight: float | None
    price: PriceResponse | None
    on: bool
    switched_off: OffResponse | None


class AdminProviderResponse(BaseModel):
    """A provider. `tenant_keys`: tenants may give their own keys for it."""

    name: str
    on: bool
    switched_off: OffResponse | None
    tenant_keys: bool


class SwitchResponse(BaseModel):
    """The state of a model or provider, by the name under which it is stored."""

    name: str
    on: bool


@router.get("/models", summary="All models with their state")
async def list_all_models(caller: Operator, limit: Limit = 20, cursor: NameCursor = None) -> Page[AdminModelResponse]:
    """Also those that are off, and so absent from `/ai/models`. By name."""
    states = await switches.list_models(caller.admin, caller.services.gateway.catalog)
    following = [state for state in states if cursor is None or state.name > cursor]
    page = [_model_response(state) for state in following[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(following) > limit else None)


@router.get("/providers", summary="All providers with their state")
async def list_providers(caller: Operator, limit: Limit = 20, cursor: NameCursor = None) -> Page[AdminProviderResponse]:
    states = await switches.list_providers(caller.admin, caller.services.gateway.catalog)
    following = [state for state in states if cursor is None or state.name > cursor]
    page = [_provider_response(state) for state in following[:limit]]
    return Page(data=page, next_cursor=page[-1].name if len(following) > limit else None)


@router.post(
    "/models/{name:path}/off",
    response_model=SwitchResponse,
    openapi_extra=json_body(SwitchOffRequest, {"reason": "It answers in the wrong language."}),
    summary="Switch a model off for all tenants",
)
async def switch_model_off(name: ModelName, caller: Operator) -> Response:
    """Within about a second, no process calls it. Calls in flight go on."""
    return await _switch_off(caller, Switchable.MODEL, name)


@router.post("/models/{name:path}/on", summary="Switch a model on again")
async def switch_model_on(name: ModelName, caller: Operator) -> SwitchResponse:
    catalog = caller.services.gateway.catalog
    return SwitchResponse(name=await switches.switch_on(caller.admin, catalog, Switchable.MODEL, name), on=True)


@router.post(
    "/providers/{name}/off",
    response_model=SwitchResponse,
    openapi_extra=json_body(SwitchOffRequest, {"reason": "Its prices have changed."}),
    summary="Switch a provider off for all tenants",
)
async def switch_provider_off(name: ProviderName, caller: Operator) -> Response:
    """Its models can only be called at other providers that serve them."""
    return await _switch_off(caller, Switchable.PROVIDER, name)


@router.post("/providers/{name}/on", summary="Switch a provider on again")
async def switch_provider_on(name: ProviderName, caller: Operator) -> SwitchResponse:
    catalog = caller.services.gateway.catalog
    return SwitchResponse(name=await switches.switch_on(caller.admin, catalog, Switchable.PROVIDER, name), on=True)


async def _switch_off(caller: Operator, kind: Switchable, name: str) -> Response:
    async def act(sent: SwitchOffRequest) -> SwitchResponse:
        catalog = caller.services.gateway.catalog
        return SwitchResponse(name=await switches.switch_off(caller.admin, catalog, kind, name, sent.reason), on=False)

    return await caller.once(SwitchOffRequest, act, status=200)


def _model_response(state: ModelState) -> AdminModelResponse:
    model = state.model
    places = () if model is None else (model,) if model.deployments is None else model.deployments.models
    return AdminModelResponse(
        id=state.name,
        provider=places[0].provider.name if places else None,
        providers=[place.provider.name for place in places],
        aliases=list(state.aliases),
        weight=model.weight_milli / 1_000 if model is not None else None,
        price=price_response(model.price) if model is not None and model.price is not None else None,
        on=state.can_be_called,
        switched_off=_off_response(state.off),
    )


def _provider_response(state: ProviderState) -> AdminProviderResponse:
    return AdminProviderResponse(
        name=state.name, on=state.off is None, switched_off=_off_response(state.off), tenant_keys=state.takes_keys
    )


def _off_response(off: SwitchedOff | None) -> OffResponse | None:
    return OffResponse(reason=off.reason, since=iso(off.created_ms)) if off is not None else None
