"""Endpoints compatible with OpenAI's and Anthropic's APIs: their SDKs work with this server as base URL."""

from starlette.types import Scope

from tollkeeper.api.compat import anthropic_errors, openai_errors
from tollkeeper.api.compat.anthropic import COUNT_TOKENS, MESSAGES
from tollkeeper.api.compat.completions import COMPLETIONS
from tollkeeper.api.compat.input_tokens import INPUT_TOKENS
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from tollkeeper.api.errors import RenderError, render_problem
from tollkeeper.api.oauth_errors import is_oauth_request, render_oauth_error
from tollkeeper.api.sdk_paths import SDK_PREFIX, is_anthropic_request, is_sdk_request

ENDPOINTS = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, INPUT_TOKENS, EMBEDDINGS, MESSAGES, COUNT_TOKENS)

_FULL_PATHS = ("/v1/models", *(endpoint.path for endpoint in ENDPOINTS))
_PATHS = tuple(path.removeprefix("/v1") for path in _FULL_PATHS)
_RENDERERS = {endpoint.path: endpoint.render_error for endpoint in ENDPOINTS}


def error_renderer_of(scope: Scope) -> RenderError:
    """The renderer of errors in the format of the API that this request is for."""
    if (render_error := _RENDERERS.get(scope["path"])) is not None:
        return render_error
    if not is_sdk_request(scope) and not is_below_wrong_base_url(scope["path"]):
        return render_oauth_error if is_oauth_request(scope) else render_problem
    return anthropic_errors.render if is_anthropic_request(scope) else openai_errors.render


def is_below_wrong_base_url(path: str) -> bool:
    """Whether this path, which does not exist, is what an SDK makes of a wrong base URL: `/v1` is missing, is there
    twice, or has a path of the API or a prefix before it.
    """
    if path.startswith(SDK_PREFIX):
        return path not in _FULL_PATHS and path.endswith(_PATHS)
    return path in _PATHS or path.endswith(_FULL_PATHS)
