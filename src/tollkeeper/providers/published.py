"""What is published of OpenAI's models: prices and context windows, from the data that comes with `genai-prices`."""

import pickle
import subprocess
import sys

from genai_prices import Usage as Sample
from genai_prices import calc_price
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

from tollkeeper.chat import Price

PROVIDER = "openai"

_LOAD = (
    "import pickle, sys; from genai_prices.data import providers;"
    "pickle.dump([provider for provider in providers if provider.id == sys.argv[1]], sys.stdout.buffer)"
)


def load() -> None:
    """Load the one provider's data. Reading all of it takes 70 MB for a moment, so another process does that."""
    command = [sys.executable, "-I", "-c", _LOAD, PROVIDER]
    loaded = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 - our own words
    set_custom_snapshot(DataSnapshot(providers=pickle.loads(loaded), from_auto_update=False))  # noqa: S301 - likewise


def look_up(model: str) -> tuple[int | None, Price | None]:
    """Context window in tokens and price; None for what nobody published."""
    try:
        found = calc_price(Sample(input_tokens=1_000), model_ref=model, provider_id=PROVIDER).model
        price = Price(
            input=_per_million(model, Sample(input_tokens=1_000)),
            cached_input=_per_million(model, Sample(input_tokens=1_000, cache_read_tokens=1_000)),
            output=_per_million(model, Sample(output_tokens=1_000)),
        )
    except LookupError:
        return None, None
    return found.context_window, price


def _per_million(model: str, sample: Sample) -> int:
    """Micro-USD per million tokens, from the price of a thousand."""
    return round(calc_price(sample, model_ref=model, provider_id=PROVIDER).total_price * 1_000_000 * 1_000)
