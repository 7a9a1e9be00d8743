"""What a model's name tells about it, whichever provider serves it.

Tokens of an image: OpenAI, "Images and vision" (calculating costs); Anthropic, "Vision" (image costs). Each number is
the most that one image takes, at the highest detail. A model of theirs that is not documented there has the bound
`UNDOCUMENTED_IMAGE_TOKENS`; any other model has `IMAGE_TOKENS` of `base`.
"""

import re
from typing import NamedTuple

from tollkeeper.providers.base import IMAGE_TOKENS, MIN_OUTPUT

MIN_REASONING_OUTPUT = 256
"""The least output limit, in tokens, of a reasoning model: its first output tokens are reasoning."""

UNDOCUMENTED_IMAGE_TOKENS = 5_000
MAX_TILES = 8
"""OpenAI fits an image into 2,048 x 2,048 pixels, and its shorter side into 768: at most 4 x 2 tiles of 512."""


def _tiles(base_tokens: int, tile_tokens: int) -> int:
    return base_tokens + MAX_TILES * tile_tokens


def _patches(max_patches: int, tokens_per_100_patches: int) -> int:
    return -(-max_patches * tokens_per_100_patches // 100)


_IMAGE_TOKENS = (
    (re.compile(r"gpt-4o-mini"), _tiles(2_833, 5_667)),
    (re.compile(r"gpt-4\.1-mini|gpt-5-mini"), _patches(1_536, 162)),
    (re.compile(r"gpt-4\.1-nano|gpt-5-nano"), _patches(1_536, 246)),
    (re.compile(r"o4-mini|codex-mini"), _patches(1_536, 172)),
    (re.compile(r"gpt-4o|chatgpt-4o|gpt-4\.[15]|gpt-4-(turbo|vision)"), _tiles(85, 170)),
    (re.compile(r"o[13]"), _tiles(75, 150)),
    (re.compile(r"gpt-5(\.[1-3])?(-|$)"), _patches(2_500, 120)),
    (re.compile(r"gpt-5\.\d.*-(mini|nano)"), _patches(2_500, 246)),
    (re.compile(r"gpt-[5-9]"), _patches(10_000, 120)),
    (re.compile(r"claude-[23]|claude-(haiku|opus|sonnet)-4(-([0-6]|\d{8})(-.*)?)?$"), 1_600),
    (re.compile(r"claude-|chatgpt-|gpt-|o\d"), UNDOCUMENTED_IMAGE_TOKENS),
)
"""By the first pattern that matches."""
_REASONING = re.compile(r"o\d|gpt-[5-9]")


class ModelTraits(NamedTuple):
    """Figures in tokens. `bills_hidden_output`: the model reasons in output that it bills and does not send."""

    bills_hidden_output: bool
    least_output: int
    image_tokens: int


def traits_of(upstream_name: str) -> ModelTraits:
    """The traits of a model, by the provider's name for it."""
    name = upstream_name.rpartition("/")[2].removeprefix("ft:")
    is_reasoning = _REASONING.match(name) is not None
    image_tokens = next((tokens for pattern, tokens in _IMAGE_TOKENS if pattern.match(name)), IMAGE_TOKENS)
    return ModelTraits(is_reasoning, MIN_REASONING_OUTPUT if is_reasoning else MIN_OUTPUT, image_tokens)
