"""Published prices and context windows of models, from the data of `genai-prices`."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from tollkeeper.chat import Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

_NEITHER_CHAT_NOR_EMBEDDING = re.compile(
    r"audio|image|instruct|live|oss|realtime|research|search|transcribe|translate|tts|vision|whisper|:|-$|-\d{4}$"
)


class PublishedFacts(NamedTuple):
    """The published context window, in tokens, and price of one model; None for what is not published."""

    context_window: int | None = None
    price: Price | None = None


NOT_PUBLISHED = PublishedFacts()


class PublishedModels:
    """The published models of some providers, by the provider's name in `genai-prices`."""

    def __init__(self, providers: "Iterable[Provider]" = ()) -> None:
        self._providers = {provider.id: provider for provider in providers}

    @classmethod
    def load(cls, providers: Iterable[str]) -> "PublishedModels":
        """Load the data of these providers."""
        if not (wanted := set(providers)):
            return cls()
        from genai_prices.data import providers as published  # a large module, which the echo provider does not need

        return cls(provider for provider in published if provider.id in wanted)

    def look_up(self, provider: str | None, model: str) -> PublishedFacts:
        """The facts of a model, by any of the provider's names for it."""
        found = self._find(provider, model)
        return NOT_PUBLISHED if found is None else PublishedFacts(found.context_window, _price(found))

    def canonical_name(self, provider: str | None, model: str) -> str | None:
        """The published name of a model, by any of the provider's names for it; None if it is not published."""
        found = self._find(provider, model)
        return None if found is None else found.id

    def model_names(self, provider: str | None, pattern: re.Pattern[str]) -> list[str]:
        """The provider's names for its models that match `pattern`, chat or make embeddings, and have a price."""
        known = self._providers.get(provider) if provider is not None else None
        return [model.id for model in known.models if _is_listed(model, pattern)] if known is not None else []

    def _find(self, provider: str | None, model: str) -> "ModelInfo | None":
        known = self._providers.get(provider) if provider is not None else None
        return known.find_model(model) if known is not None else None


def _is_listed(model: "ModelInfo", pattern: re.Pattern[str]) -> bool:
    if model.deprecated or not pattern.match(model.id) or _NEITHER_CHAT_NOR_EMBEDDING.search(model.id):
        return False
    return model.context_window is not None and _price(model) is not None


def _price(model: "ModelInfo") -> Price | None:
    """The current price of text; None for a model that is not priced per token."""
    prices: ModelPrice = model.get_prices(datetime.now(UTC))
    if prices.input_mtok is None:
        return None

    def micro_usd(usd: "Decimal | TieredPrices | None") -> int:
        return _micro_usd(usd, model.context_window)

    cached = prices.cache_read_mtok if prices.cache_read_mtok is not None else prices.input_mtok
    cache_write = None if prices.cache_write_mtok is None else micro_usd(prices.cache_write_mtok)
    return Price(micro_usd(prices.input_mtok), micro_usd(cached), micro_usd(prices.output_mtok), cache_write)


def _micro_usd(usd: "Decimal | TieredPrices | None", context_window: int | None) -> int:
    """Micro-USD, rounded up. A price in tiers of context length counts as its highest tier within the context window:
    a call is reserved and charged at one price.
    """
    if usd is None:
        return 0
    if not isinstance(usd, Decimal):
        tiers = [tier.price for tier in usd.tiers if context_window is None or tier.start < context_window]
        usd = max(usd.base, *tiers) if tiers else usd.base
    return ceil(usd * 1_000_000)
