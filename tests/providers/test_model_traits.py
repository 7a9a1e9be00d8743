"""The traits of families of models, which apply to a model without settings of its own."""

import pytest

from support.catalogs import THREE_PROVIDERS
from tollkeeper.providers.base import MIN_OUTPUT
from tollkeeper.providers.catalog import build_catalog
from tollkeeper.providers.model_traits import MIN_REASONING_OUTPUT, traits_of


@pytest.mark.parametrize(
    ("name", "image_tokens", "reasons"),
    [
        ("gpt-4o", 1_445, False),
        ("gpt-4.1-2025-04-14", 1_445, False),
        ("gpt-4o-mini", 48_169, False),
        ("ft:gpt-4o-mini:house", 48_169, False),
        ("gpt-4.1-mini", 2_489, False),
        ("gpt-4.1-nano", 3_779, False),
        ("o4-mini", 2_642, True),
        ("o1", 1_275, True),
        ("openai/o3", 1_275, True),
        ("gpt-5", 3_000, True),
        ("gpt-5.2", 3_000, True),
        ("gpt-5-mini", 2_489, True),
        ("gpt-5.4-nano", 6_150, True),
        ("gpt-5.4", 12_000, True),
        ("gpt-6-sol", 12_000, True),
        ("claude-3-haiku", 1_600, False),
        ("claude-opus-4-5-20251101", 1_600, False),
        ("claude-opus-4-20250514", 1_600, False),
        ("claude-sonnet-4", 1_600, False),
        ("claude-opus-4-7", 5_000, False),
        ("claude-opus-5", 5_000, False),
        ("gpt-4", 5_000, False),
        ("o9", 5_000, True),
        ("llava", 16_384, False),
        ("qwen/qwen2.5-vl-72b-instruct", 16_384, False),
    ],
)
def test_the_traits_of_a_family_of_models(name: str, image_tokens: int, reasons: bool) -> None:
    least = MIN_REASONING_OUTPUT if reasons else MIN_OUTPUT
    assert traits_of(name) == (reasons, least, image_tokens)
    model = build_catalog(THREE_PROVIDERS).model(f"openai/{name}")
    assert (model.image_tokens, model.least_output, model.bills_hidden_output) == (image_tokens, least, reasons)
