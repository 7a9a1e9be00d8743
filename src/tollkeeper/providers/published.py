"""What is published of models: prices and context windows, from the data that comes with `genai-prices`."""

import pickle
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from math import ceil
from typing import NamedTuple

from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from tollkeeper.chat import Price

_LOAD = (
    "import pickle, sys; from genai_prices.data import providers;"
    "pickle.dump([one for one in providers if one.id in sys.argv[1:]], sys.stdout.buffer)"
)
_ASKED_BY_NAME = re.compile(r"(gpt-|o\d|chatgpt-|claude-|text-embedding-)")
_NEITHER_CHAT_NOR_EMBEDDING = re.compile(
    r"audio|image|instruct|live|oss|realtime|research|search|transcribe|translate|tts|vision|whisper|:|-$|-\d{4}$"
)


class Facts(NamedTuple):
    """What is known of one model; None for what nobody published. The window in tokens."""

    context_window: int | None = None
    price: Price | None = None


UNKNOWN = Facts()


class Published:
    """The published models of some providers, by the name that `genai-prices` has for each."""

    def __init__(self, providers: Iterable[Provider] = ()) -> None:
        self._providers = {provider.id: provider for provider in providers}

    @classmethod
    def load(cls, names: Iterable[str]) -> "Published":
        """Load these providers' data. Reading all of it takes 70 MB for a moment, so another process does that."""
        if not (wanted := sorted(set(names))):
            return cls()
        command = [sys.executable, "-I", "-c", _LOAD, *wanted]
        loaded = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 - our own words
        return cls(pickle.loads(loaded))  # noqa: S301 - likewise

    def look_up(self, provider: str | None, model: str) -> Facts:
        """What is known of a model, under any name that the provider has for it."""
        found = self._find(provider, model)
        return UNKNOWN if found is None else Facts(found.context_window, _price(found))

    def name(self, provider: str | None, model: str) -> str | None:
        """The name under which a model is published, whichever name it is known by."""
        found = self._find(provider, model)
        return None if found is None else found.id

    def names(self, provider: str | None) -> list[str]:
        """The provider's models that chat or make embeddings and have a price, as the provider calls them."""
        known = self._providers.get(provider) if provider is not None else None
        return [model.id for model in known.models if _is_ours(model)] if known is not None else []

    def _find(self, provider: str | None, model: str) -> ModelInfo | None:
        known = self._providers.get(provider) if provider is not None else None
        return known.find_model(model) if known is not None else None


def _is_ours(model: ModelInfo) -> bool:
    if model.deprecated or not _ASKED_BY_NAME.match(model.id) or _NEITHER_CHAT_NOR_EMBEDDING.search(model.id):
        return False
    return model.context_window is not None and _price(model) is not None


def _price(model: ModelInfo) -> Price | None:
    """The price of text as of now; None for models that are not paid by the token."""
    prices: ModelPrice = model.get_prices(datetime.now(UTC))
    if prices.input_mtok is None:
        return None

    def micro_usd(usd: Decimal | TieredPrices | None) -> int:
        return _micro_usd(usd, model.context_window)

    cached = prices.cache_read_mtok if prices.cache_read_mtok is not None else prices.input_mtok
    cache_write = None if prices.cache_write_mtok is None else micro_usd(prices.cache_write_mtok)
    return Price(micro_usd(prices.input_mtok), micro_usd(cached), micro_usd(prices.output_mtok), cache_write)


def _micro_usd(usd: Decimal | TieredPrices | None, context_window: int | None) -> int:
    """Rounded up. A price that depends on how long the context is counts as its dearest tier that can be reached:
    a call is held and charged at one price.
    """
    if isinstance(usd, TieredPrices):
        tiers = [tier.price for tier in usd.tiers if context_window is None or tier.start < context_window]
        usd = max(usd.base, *tiers) if tiers else usd.base
    return 0 if usd is None else ceil(usd * 1_000_000)
