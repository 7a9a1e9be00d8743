"""GET /ai/models: the models that can be called, and the prices of their tokens."""

from fastapi import APIRouter
from pydantic import BaseModel

from tollkeeper.api.dependencies import Caller, ServicesDep
from tollkeeper.api.formats import usd
from tollkeeper.chat import Price
from tollkeeper.gateway.allowed_models import allowed_models
from tollkeeper.providers.base import MAX_CONTEXT
from tollkeeper.providers.resolver import ListedModel

router = APIRouter(prefix="/ai", tags=["ai"])


class PriceResponse(BaseModel):
    """USD per million tokens."""

    input: str
    cached_input: str
    output: str


class ModelResponse(BaseModel):
    """One model. Each of its tokens counts as `weight` against token quotas. Unknown values are null."""

    id: str
    provider: str
    weight: float
    context_window: int | None
    price: PriceResponse | None
    aliases: list[str]
    default: bool


class ModelListResponse(BaseModel):
    """The models that the caller may use, the default first. A provider's other models may be callable as
    `provider/model`.
    """

    data: list[ModelResponse]


@router.get("/models", summary="List models")
async def list_models(caller: Caller, services: ServicesDep) -> ModelListResponse:
    catalog = services.gateway.catalog
    default = catalog.configured_model(catalog.default_name).name
    allowed = allowed_models(catalog, caller.principal)
    return ModelListResponse(data=[_model_response(one, default=one.model.name == default) for one in allowed])


def _model_response(listed: ListedModel, *, default: bool) -> ModelResponse:
    model = listed.model
    return ModelResponse(
        id=model.name,
        provider=model.provider.name,
        weight=model.weight_milli / 1_000,
        context_window=model.context_window if model.context_window != MAX_CONTEXT else None,
        price=price_response(model.price) if model.price is not None else None,
        aliases=list(listed.aliases),
        default=default,
    )


def price_response(price: Price) -> PriceResponse:
    """The price of a model."""
    micro_usd = {"input": price.input, "cached_input": price.cached_input, "output": price.output}
    return PriceResponse(**{kind: usd(amount) or "" for kind, amount in micro_usd.items()})
