"""GET /v1/models and /v1/models/{id}, as OpenAI's API or, asked with its version header, Anthropic's says them."""

from typing import Annotated, Any

from fastapi import APIRouter, Header

from tollkeeper.api.dependencies import Caller, Parts
from tollkeeper.errors import ModelNotFound
from tollkeeper.providers.base import Model

router = APIRouter(prefix="/v1", tags=["ai"])

UNKNOWN_TIME, UNKNOWN_TIME_S = "1970-01-01T00:00:00Z", 0
"""When a model was made is known to its provider alone; both dialects want a time."""

AnthropicVersion = Annotated[str | None, Header()]


@router.get("/models", summary="OpenAI, Anthropic: list models")
async def list_models(_caller: Caller, parts: Parts, anthropic_version: AnthropicVersion = None) -> dict[str, Any]:
    """The default first, all on one page."""
    models = [listing.model for listing in parts.gateway.catalog.listing()]
    if anthropic_version is None:
        return {"object": "list", "data": [_for_openai(model) for model in models]}
    first, last = models[0].name, models[-1].name
    return {"data": [_for_anthropic(model) for model in models], "has_more": False, "first_id": first, "last_id": last}


@router.get("/models/{model_id:path}", summary="OpenAI, Anthropic: one model")
async def one_model(
    model_id: str, _caller: Caller, parts: Parts, anthropic_version: AnthropicVersion = None
) -> dict[str, Any]:
    """Any model that can be asked for, listed or not."""
    if not model_id:
        raise ModelNotFound
    model = parts.gateway.catalog.model(model_id)
    return _for_openai(model) if anthropic_version is None else _for_anthropic(model)


def _for_openai(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": UNKNOWN_TIME_S, "owned_by": model.provider.name}


def _for_anthropic(model: Model) -> dict[str, Any]:
    return {"type": "model", "id": model.name, "display_name": model.name, "created_at": UNKNOWN_TIME}
