"""What earlier answers left in a request: reasoning, signatures and ids of tool calls, each as the model accepts it."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tollkeeper.chat import ChatRequest
from tollkeeper.dialects.signatures import Kind, open_request
from tollkeeper.providers.base import CallInput, Model
from tollkeeper.providers.extra_parameters import require_chat_request
from tollkeeper.providers.input_texts import input_texts

_OPENAI_HOSTS = re.compile(r"https://([a-z0-9-]+\.)*(openai|azure)\.com([:/]|$)", re.IGNORECASE)
_OPENAI_MODELS = re.compile(r"(ft:)?(gpt-(?!oss)|o\d|chatgpt-|codex-)")
_OPENAI_REASONING_MODELS = re.compile(r"(ft:)?(o\d|gpt-([5-9]|\d\d)(?!.*chat)|codex-)")
_UNSIGNED_THINKING = re.compile(
    r"kimi|deepseek|glm|minimax|qwen|qwq|mimo|longcat|step-|hunyuan|doubao|gpt-oss", re.IGNORECASE
)
"""The families of models, other than Claude, that vendors serve on Anthropic's wire."""
_HOSTS_WITHOUT_REASONING = re.compile(r"https://([a-z0-9-]+\.)*(googleapis\.com|mistral\.ai)([:/]|$)", re.IGNORECASE)
_MODELS_WITHOUT_REASONING = re.compile(
    r"(.*/)?(gemini|(open-)?mistral|ministral|magistral|devstral|codestral|pixtral)", re.IGNORECASE
)
"""The hosts and the models that refuse reasoning in a message of the chat wire."""
_NAMED_REASONING = re.compile(r"https://([a-z0-9-]+\.)*(groq\.com|cerebras\.ai)([:/]|$)", re.IGNORECASE)
"""The hosts that know the reasoning in a message only as `reasoning`."""


class Clean(Protocol):
    """Cleans one field of a raw request."""

    def __call__(self, raw: bytes, *, verified: bool) -> bytes: ...


def verifies_thinking(model: Model) -> bool:
    """Whether a model on Anthropic's wire refuses thinking that it did not sign, as Claude does."""
    return _UNSIGNED_THINKING.search(model.upstream_name) is None


def is_of_openai(model: Model, base_url: str) -> bool:
    """Whether the model is OpenAI's own. It refuses reasoning that it did not encrypt, and long ids."""
    return bool(_OPENAI_HOSTS.match(base_url) or _OPENAI_MODELS.match(model.upstream_name))


def encrypts_reasoning(model: Model) -> bool:
    """Whether the model can send its reasoning encrypted. Others refuse a request for that."""
    return _OPENAI_REASONING_MODELS.match(model.upstream_name) is not None


def reasoning_field(model: Model, base_url: str) -> str | None:
    """The field of a message of the chat wire that takes the reasoning of an earlier answer; None if there is none."""
    if is_of_openai(model, base_url) or _HOSTS_WITHOUT_REASONING.match(base_url):
        return None
    if _MODELS_WITHOUT_REASONING.match(model.upstream_name):
        return None
    return "reasoning" if _NAMED_REASONING.match(base_url) else "reasoning_content"


def open_history(
    model: Model, call_input: CallInput, kinds: frozenset[Kind], *, unsigned: bool
) -> tuple[ChatRequest, Callable[[], tuple[str, ...]]]:
    """The ChatRequest of an input that is translated, as `open_request` makes it for the model, and its texts.

    Raises as `require_chat_request` does.
    """
    given = require_chat_request(model, call_input)
    opened = open_request(given, model.name, kinds, unsigned=unsigned)
    return opened, input_texts(call_input) if opened is given else lambda: opened.texts


def clean_history(call_input: CallInput, name: str, clean: Clean, *, verified: bool) -> CallInput:
    """The input with the field `name` of its raw request cleaned; the same input if there is nothing to clean."""
    raw = call_input.raw
    if raw is None or name not in raw.fields:
        return call_input
    cleaned = clean(raw.fields[name], verified=verified)
    if cleaned is raw.fields[name]:
        return call_input
    return replace(call_input, raw=raw._replace(fields=raw.fields | {name: cleaned}))
