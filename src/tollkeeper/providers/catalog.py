"""Which models there are, who serves them, and what must be known of them before a call."""

from collections.abc import Callable
from functools import lru_cache

from tollkeeper.chat import Price
from tollkeeper.errors import NotFound
from tollkeeper.providers import published
from tollkeeper.providers.base import LARGEST_CONTEXT, LEAST_OUTPUT, Model, Provider

LEAST_REASONING_OUTPUT = 256
"""A reasoning model spends its first tokens thinking."""

MODELS_REMEMBERED = 1_000


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
