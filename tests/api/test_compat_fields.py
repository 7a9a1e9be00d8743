"""The names of models on the compatible endpoints follow the same rules as on all others."""

import msgspec
import orjson
import pytest

from tollkeeper.api.compat.fields import read_name
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
