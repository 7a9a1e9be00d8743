"""What is published is read as it is, and never below it."""

from decimal import Decimal

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

from tollkeeper.chat import Price
from tollkeeper.providers import anthropic, openai
from tollkeeper.providers.catalog import MAX_EMBEDDINGS_INPUT_TOKENS, build_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider
from tollkeeper.providers.published import NOT_PUBLISHED, PublishedModels


def published(context_window: int | None, prices: ModelPrice, name: str = "gpt-m") -> PublishedModels:
    model = ModelInfo(id=name, match=ClauseEquals(name), context_window=context_window, prices=prices)
    return PublishedModels([Provider(id="p", name="P", api_pattern="", models=[model])])


@pytest.fixture(scope="module")
def real() -> PublishedModels:
    return PublishedModels.load(["openai", "anthropic", "openai"])


def test_prices_and_windows_of_both_providers_are_known(real: PublishedModels) -> None:
    assert real.look_up("openai", "gpt-4o-mini") == (128_000, Price(150_000, 75_000, 600_000))
    assert real.look_up("openai", "gpt-4o-mini-2024-07-18") == (128_000, Price(150_000, 75_000, 600_000))
    assert real.look_up("anthropic", "claude-haiku-4-5-20251001") == (
        200_000,
        Price(1_000_000, 100_000, 5_000_000, 1_250_000),
    )
    assert real.look_up("openai", "text-embedding-3-small").price == Price(20_000, 20_000, 0)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "my-own"), ("openai", "tts-1"), ("groq", "gpt-4o"), (None, "gpt-4o")]
)
def test_what_nobody_published_by_the_token_has_no_price(
    real: PublishedModels, provider: str | None, model: str
) -> None:
    assert real.look_up(provider, model) == NOT_PUBLISHED


def test_a_model_is_published_under_one_name_whichever_it_is_known_by(real: PublishedModels) -> None:
    assert real.canonical_name("openai", "gpt-4o-2024-08-06") == real.canonical_name("openai", "gpt-4o") == "gpt-4o"
    assert real.canonical_name("openai", "my-own") is real.canonical_name(None, "gpt-4o") is None


def test_the_models_to_show_chat_or_make_embeddings_and_have_a_price(real: PublishedModels) -> None:
    names = real.model_names("openai", openai.MODEL_NAMES)
    assert {"gpt-4o", "gpt-4o-mini", "o3", "text-embedding-3-small"} <= set(names)
    assert not {"tts-1", "whisper-1", "moderation", "gpt-image-1", "gpt-realtime", "davinci-002"} & set(names)
    assert "claude-haiku-4-5" in real.model_names("anthropic", anthropic.MODEL_NAMES)
    assert all(real.look_up("openai", name).price is not None for name in names)
    assert real.model_names("groq", openai.MODEL_NAMES) == real.model_names(None, openai.MODEL_NAMES) == []


def test_nothing_is_loaded_for_nobody() -> None:
    assert PublishedModels.load([]).look_up("openai", "gpt-4o") == NOT_PUBLISHED


def test_a_fraction_of_a_micro_usd_is_rounded_up() -> None:
    prices = ModelPrice(input_mtok=Decimal("0.1500001"), output_mtok=Decimal("0.0000001"))
    assert published(None, prices).look_up("p", "gpt-m").price == Price(150_001, 150_001, 1)


@pytest.mark.parametrize(("window", "expected"), [(200_000, 3), (200_001, 6), (1_000_000, 9), (None, 9)])
def test_a_tiered_price_counts_as_its_dearest_tier_that_can_be_reached(window: int | None, expected: int) -> None:
    tiers = [Tier(start=200_000, price=Decimal(6)), Tier(start=900_000, price=Decimal(9))]
    tiered = TieredPrices(base=Decimal(3), tiers=tiers)
    prices = ModelPrice(input_mtok=tiered, cache_read_mtok=Decimal(1), output_mtok=tiered, cache_write_mtok=tiered)
    dearest = expected * 1_000_000
    assert published(window, prices).look_up("p", "gpt-m").price == Price(dearest, 1_000_000, dearest, dearest)


def test_the_catalog_takes_what_is_published() -> None:
    catalog = build_catalog(
        [
            ConfiguredProvider(
                EchoProvider(name="openai"), "openai", default_model="gpt-4o-mini", listed_names=openai.MODEL_NAMES
            )
        ]
    )
    model = catalog.model(None)
    assert (model.context_window, model.price) == (128_000, Price(150_000, 75_000, 600_000))
    assert catalog.model("openai/gpt-4o-mini").price == model.price
    listed = [one.model.name for one in catalog.listed_models()]
    assert listed[0] == "gpt-4o-mini"
    assert "gpt-4o" in listed
    assert len(set(listed)) == len(listed)


def test_an_embeddings_call_may_read_more_than_one_input_can_be_long() -> None:
    catalog = build_catalog([ConfiguredProvider(EchoProvider(name="openai"), default_model="text-embedding-3-small")])
    assert catalog.model(None).context_window == MAX_EMBEDDINGS_INPUT_TOKENS
