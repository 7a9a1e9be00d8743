"""Fields on the compatible endpoints: the names of models follow the same rules as on all others; output limits."""

import msgspec
import orjson
import pytest

from tollkeeper.api.compat.fields import MAX_TOKENS, read_name, read_output_limit
from tollkeeper.errors import InvalidRequest


def read_model(value: object) -> str | None:
    return read_name({"model": msgspec.Raw(orjson.dumps(value))}, "model")


@pytest.mark.parametrize("name", ["m", "house/org/fast-1", "gpt-4o:latest", "ä" * 200])
def test_a_name_has_up_to_200_characters(name: str) -> None:
    assert read_model(name) == name


@pytest.mark.parametrize(
    "name", ["", "m" * 201, "gpt-4o ", " gpt-4o", "gpt-4o\n", "gpt\u00a04o", "gpt\u20034o", 7, ["m"]]
)
def test_a_name_that_is_empty_too_long_has_white_space_or_is_no_text_is_refused(name: object) -> None:
    """A provider may ignore a space, but the catalog finds weights and prices by the exact name."""
    with pytest.raises(InvalidRequest) as raised:
        read_model(name)
    assert raised.value.parameter == "model"


def read_limit(value: object) -> int | None:
    return read_output_limit({"max_tokens": msgspec.Raw(orjson.dumps(value))}, "max_tokens")


def test_an_output_limit_of_minus_one_counts_as_not_given() -> None:
    """Local model servers take it for "no limit", and their clients send it."""
    assert (read_limit(-1), read_output_limit({}, "max_tokens")) == (None, None)
    assert (read_limit(1), read_limit(MAX_TOKENS)) == (1, MAX_TOKENS)


@pytest.mark.parametrize("value", [0, -2, -10, MAX_TOKENS + 1, -1.5, "-1", True, [-1]])
def test_any_other_output_limit_must_be_a_number_of_tokens(value: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_limit(value)
    assert raised.value.parameter == "max_tokens"
