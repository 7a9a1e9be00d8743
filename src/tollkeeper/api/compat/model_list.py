"""GET /v1/models and /v1/models/{id}: in OpenAI's format, or in Anthropic's if its version header is sent."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path

from tollkeeper.api.compat.schemas import model_responses
from tollkeeper.api.dependencies import Caller, ServicesDep
from tollkeeper.errors import ModelNotFound
from tollkeeper.gateway.allowed_models import allowed_models, require_model
from tollkeeper.providers.base import Model

router = APIRouter(prefix="/v1", tags=["ai"])

CREATED = datetime(2026, 11, 21, tzinfo=UTC)
"""Both formats require the time when a model was created. The catalog does not know it: all models have
that of this server's first version, so that it never changes."""

AnthropicVersion = Annotated[str | None, Header(examples=["2023-06-01"])]
ModelId = Annotated[str, Path(examples=["gpt-4o-mini"])]


@router.get("/models", summary="OpenAI, Anthropic: list models", responses=model_responses(is_list=True))
async def v1_models(
    caller: Caller, services: ServicesDep, anthropic_version: AnthropicVersion = None
) -> dict[str, Any]:
    """All models that the caller may use on one page, the default first."""
    models = [listed.model for listed in allowed_models(services.gateway.catalog, caller.principal)]
    if anthropic_version is None:
        return {"object": "list", "data": [_for_openai(model) for model in models]}
    names = [model.name for model in models]
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": [_for_anthropic(model) for model in models], "has_more": False, **ends}


@router.get("/models/{model_id:path}", summary="OpenAI, Anthropic: one model", responses=model_responses(is_list=False))
async def v1_model(
    model_id: ModelId, caller: Caller, services: ServicesDep, anthropic_version: AnthropicVersion = None
) -> dict[str, Any]:
    """Any model that can be called, also one that the list does not contain."""
    if not model_id:
        raise ModelNotFound
    catalog = services.gateway.catalog
    require_model(catalog, caller.principal, model_id)
    model = catalog.model(model_id)
    return _for_openai(model) if anthropic_version is None else _for_anthropic(model)


def _for_openai(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(CREATED.timestamp()), "owned_by": model.provider.name}


def _for_anthropic(model: Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": CREATED.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
