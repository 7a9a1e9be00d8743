"""Published prices and context windows: never below the published price."""

from decimal import Decimal

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

from tollkeeper.chat import Price
from tollkeeper.providers import anthropic, openai
from tollkeeper.providers.catalog import build_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider
from tollkeeper.providers.published import NOT_PUBLISHED, PublishedModels
from tollkeeper.providers.resolver import MAX_EMBEDDINGS_INPUT_TOKENS


def make_published(context_window: int | None, prices: ModelPrice, name: str = "gpt-m") -> PublishedModels:
    model = ModelInfo(id=name, match=ClauseEquals(name), context_window=context_window, prices=prices)
    return PublishedModels([Provider(id="p", name="P", api_pattern="", models=[model])])


@pytest.fixture(scope="module")
def published_models() -> PublishedModels:
    return PublishedModels.load(["openai", "anthropic", "openai"])


def test_prices_and_context_windows_of_both_providers_are_published(published_models: PublishedModels) -> None:
    assert published_models.look_up("openai", "gpt-4o-mini") == (128_000, Price(150_000, 75_000, 600_000))
    assert published_models.look_up("openai", "gpt-4o-mini-2024-07-18") == (128_000, Price(150_000, 75_000, 600_000))
    assert published_models.look_up("anthropic", "claude-haiku-4-5-20251001") == (
        200_000,
        Price(1_000_000, 100_000, 5_000_000, 1_250_000),
    )
    assert published_models.look_up("openai", "text-embedding-3-small").price == Price(20_000, 20_000, 0)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "my-own"), ("openai", "tts-1"), ("groq", "gpt-4o"), (None, "gpt-4o")]
)
def test_a_model_without_a_published_token_price_has_no_price(
    published_models: PublishedModels, provider: str | None, model: str
) -> None:
    assert published_models.look_up(provider, model) == NOT_PUBLISHED


def test_a_model_has_one_canonical_name_whatever_its_other_names(published_models: PublishedModels) -> None:
    assert (
        published_models.canonical_name("openai", "gpt-4o-2024-08-06")
        == published_models.canonical_name("openai", "gpt-4o")
        == "gpt-4o"
    )
    assert (
        published_models.canonical_name("openai", "my-own") is published_models.canonical_name(None, "gpt-4o") is None
    )


def test_only_chat_and_embedding_models_with_a_price_are_listed(published_models: PublishedModels) -> None:
    names = published_models.model_names("openai", openai.MODEL_NAMES)
    assert {"gpt-4o", "gpt-4o-mini", "o3", "text-embedding-3-small"} <= set(names)
    assert not {"tts-1", "whisper-1", "moderation", "gpt-image-1", "gpt-realtime", "davinci-002"} & set(names)
    assert "claude-haiku-4-5" in published_models.model_names("anthropic", anthropic.MODEL_NAMES)
    assert all(published_models.look_up("openai", name).price is not None for name in names)
    assert (
        published_models.model_names("groq", openai.MODEL_NAMES)
        == published_models.model_names(None, openai.MODEL_NAMES)
        == []
    )


def test_without_providers_nothing_is_published() -> None:
    assert PublishedModels.load([]).look_up("openai", "gpt-4o") == NOT_PUBLISHED


def test_a_fraction_of_a_micro_usd_is_rounded_up() -> None:
    prices = ModelPrice(input_mtok=Decimal("0.1500001"), output_mtok=Decimal("0.0000001"))
    assert make_published(None, prices).look_up("p", "gpt-m").price == Price(150_001, 150_001, 1)


@pytest.mark.parametrize(("window", "expected"), [(200_000, 3), (200_001, 6), (1_000_000, 9), (None, 9)])
def test_a_tiered_price_is_that_of_the_dearest_tier_within_the_context_window(
    window: int | None, expected: int
) -> None:
    tiers = [Tier(start=200_000, price=Decimal(6)), Tier(start=900_000, price=Decimal(9))]
    tiered = TieredPrices(base=Decimal(3), tiers=tiers)
    prices = ModelPrice(input_mtok=tiered, cache_read_mtok=Decimal(1), output_mtok=tiered, cache_write_mtok=tiered)
    dearest = expected * 1_000_000
    assert make_published(window, prices).look_up("p", "gpt-m").price == Price(dearest, 1_000_000, dearest, dearest)


def test_the_catalog_uses_published_prices_and_windows() -> None:
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


def test_the_window_of_an_embedding_model_is_that_of_all_inputs_of_a_call() -> None:
    catalog = build_catalog([ConfiguredProvider(EchoProvider(name="openai"), default_model="text-embedding-3-small")])
    assert catalog.model(None).context_window == MAX_EMBEDDINGS_INPUT_TOKENS
