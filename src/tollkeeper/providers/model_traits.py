"""What is known of models by their names alone, whoever serves them.

Tokens of a picture: OpenAI, "Images and vision" (calculating costs); Anthropic, "Vision" (image costs). Each number is
the most that one picture can take, at the highest detail. A model of theirs that is not named there is expected to take
no more than `LATEST_PICTURE`; one of nobody known, as much as the seam's `IMAGE_TOKENS`.
"""

import re
from typing import NamedTuple

from tollkeeper.providers.base import IMAGE_TOKENS, MIN_OUTPUT

MIN_REASONING_OUTPUT = 256
"""A reasoning model spends its first tokens thinking."""

LATEST_PICTURE = 5_000
MAX_TILES = 8
"""A picture is fit into 2,048 x 2,048 and its shorter side into 768: at most 4 x 2 tiles of 512."""


def _tiles(base: int, tile: int) -> int:
    return base + MAX_TILES * tile


def _patches(most: int, hundredths: int) -> int:
    return -(-most * hundredths // 100)


_PICTURES = (
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
    (re.compile(r"claude-|chatgpt-|gpt-|o\d"), LATEST_PICTURE),
)
_REASONING = re.compile(r"o\d|gpt-[5-9]")


class Traits(NamedTuple):
    """In tokens; `reasons`: it thinks unseen, and bills that."""

    reasons: bool
    least_output: int
    image_tokens: int


def traits(upstream: str) -> Traits:
    """What to expect of a model by the name that its provider has for it."""
    name = upstream.rpartition("/")[2].removeprefix("ft:")
    reasons = _REASONING.match(name) is not None
    pictures = next((most for pattern, most in _PICTURES if pattern.match(name)), IMAGE_TOKENS)
    return Traits(reasons, MIN_REASONING_OUTPUT if reasons else MIN_OUTPUT, pictures)
