"""Which models there are, who serves them, and what must be known of them before a call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tollkeeper.chat import Price, Usage
from tollkeeper.errors import NotFound
from tollkeeper.providers import published
from tollkeeper.providers.base import Provider

LARGEST_CONTEXT = 2_000_000
"""For models whose context window is not known: no model's is larger."""

LEAST_OUTPUT = 16
LEAST_REASONING_OUTPUT = 256
"""A reasoning model spends its first tokens thinking."""

MODELS_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its provider. Counts in tokens; the weight in thousandths."""

    name: str
    provider: Provider
    overhead: int = 64
    least_output: int = LEAST_OUTPUT
    context_window: int = LARGEST_CONTEXT
    weight_milli: int = 1_000
    price: Price | None = None

    def can_have_used(self, usage: Usage) -> bool:
        """Whether a report can be true: nothing beyond what the model can read and write in one call."""
        return usage.input_tokens <= self.context_window and usage.output_tokens <= self.context_window


class Catalog:
    """The models of one provider. A request without a model gets `default`."""

    def __init__(self, default: str, find: Callable[[str], Model | None], provider: Provider) -> None:
        self.default = default
        self.provider = provider
        self._find = lru_cache(maxsize=MODELS_REMEMBERED)(find)

    def model(self, name: str | None) -> Model:
        """The model of that name. Raises NotFound."""
        model = self._find(name or self.default)
        if model is None:
            raise NotFound("There is no such model here.")
        return model


def echo_catalog(provider: Provider) -> Catalog:
    """One model, named like its provider."""
    free = Price(0, 0, 0)
    return Catalog("echo", lambda name: Model(name, provider, price=free) if name == "echo" else None, provider)


def openai_catalog(provider: Provider, default: str) -> Catalog:
    """Whatever the provider knows by name; prices and context windows where they are published."""
    published.load()

    def find(name: str) -> Model:
        context_window, price = published.look_up(name)
        reasoning = name.startswith(("o1", "o3", "o4", "gpt-5"))
        least = LEAST_REASONING_OUTPUT if reasoning else LEAST_OUTPUT
        return Model(name, provider, least_output=least, context_window=context_window or LARGEST_CONTEXT, price=price)

    return Catalog(default, find, provider)
