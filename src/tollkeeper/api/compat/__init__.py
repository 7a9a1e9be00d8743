"""The surfaces of others: whoever has an OpenAI or an Anthropic SDK can point it here."""

from starlette.types import Scope

from tollkeeper.api.compat import anthropic, openai_errors
from tollkeeper.api.compat.anthropic import COUNT_TOKENS, MESSAGES
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from tollkeeper.api.errors import NATIVE, RenderError

DOORS = (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES, COUNT_TOKENS)

_MANNERS = {door.path: door.manner for door in DOORS}


def manner_of(scope: Scope) -> RenderError:
    """How whoever sent this request wants to hear what went wrong."""
    if (manner := _MANNERS.get(scope["path"])) is not None:
        return manner
    if not scope["path"].startswith("/v1/"):
        return NATIVE
    speaks_anthropic = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return anthropic.render if speaks_anthropic else openai_errors.render
