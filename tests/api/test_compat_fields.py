"""Fields on the compatible endpoints: the names of models follow the same rules as on all others; output limits."""

import json

import msgspec
import orjson
import pytest

from tollkeeper.api.compat.fields import MAX_TOKENS, decode_fields, read_name, read_output_limit
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


_LONG = "The toll is paid. \u00e4\n" * 5_000


@pytest.mark.parametrize(
    "value",
    [
        _LONG,
        [{"role": "user", "content": _LONG}],
        [
            {"role": "user", "content": [{"type": "text", "text": _LONG}, {"n": 2**70, "f": 1e300, "none": None}]},
            [],
            "",
        ],
        {"a": {"b": {"c": {"d": {"e": {"f": [_LONG, True]}}}}}},
        [[[[[[_LONG]]]]]],
        [7] * 50_000,
    ],
    ids=["text", "message", "parts", "objects", "lists", "numbers"],
)
def test_a_large_field_has_the_same_value_as_if_decoded_at_once(value: object) -> None:
    """It is decoded piece by piece, so that no step in C keeps the event loop waiting for long."""
    sent = json.dumps(value, indent=1).encode()
    assert decode_fields({"large": sent, "small": b" 1"}) == {"large": orjson.loads(sent), "small": 1}
