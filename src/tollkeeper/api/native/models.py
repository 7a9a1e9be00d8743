"""GET /ai/models: which models can be asked, and what their tokens cost."""

from fastapi import APIRouter
from pydantic import BaseModel

from tollkeeper.api.dependencies import Caller, Parts
from tollkeeper.api.formats import usd
from tollkeeper.chat import Price
from tollkeeper.providers.base import MAX_CONTEXT
from tollkeeper.providers.catalog import Listing

router = APIRouter(prefix="/ai", tags=["ai"])


class PriceShown(BaseModel):
    """USD per million tokens."""

    input: str
    cached_input: str
    output: str


class ModelShown(BaseModel):
    """One model. A token of it counts as `weight` against token quotas. What nobody knows is null."""

    id: str
    provider: str
    weight: float
    context_window: int | None
    price: PriceShown | None
    aliases: list[str]
    default: bool


class Models(BaseModel):
    """The default first. Others may be there too, as `provider/model`, for those who know their names."""

    data: list[ModelShown]


@router.get("/models", summary="Which models are there")
async def models(_caller: Caller, parts: Parts) -> Models:
    default, *others = parts.gateway.catalog.listing()
    return Models(data=[_show(default, default=True), *(_show(one, default=False) for one in others)])


def _show(listing: Listing, *, default: bool) -> ModelShown:
    model = listing.model
    return ModelShown(
        id=model.name,
        provider=model.provider.name,
        weight=model.weight_milli / 1_000,
        context_window=model.context_window if model.context_window != MAX_CONTEXT else None,
        price=_show_price(model.price) if model.price is not None else None,
        aliases=list(listing.aliases),
        default=default,
    )


def _show_price(price: Price) -> PriceShown:
    shown = {"input": price.input, "cached_input": price.cached_input, "output": price.output}
    return PriceShown(**{kind: usd(micro_usd) or "" for kind, micro_usd in shown.items()})
