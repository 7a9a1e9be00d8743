"""What the compatible doors take for the name of a model is what all others take."""

import msgspec
import orjson
import pytest

from tollkeeper.api.compat.fields import read_name
from tollkeeper.errors import InvalidRequest


def model(value: object) -> str | None:
    return read_name({"model": msgspec.Raw(orjson.dumps(value))}, "model")


@pytest.mark.parametrize("name", ["m", "house/org/fast-1", "gpt-4o:latest", "ä" * 200])
def test_a_name_is_up_to_200_characters(name: str) -> None:
    assert model(name) == name


@pytest.mark.parametrize(
    "name", ["", "m" * 201, "gpt-4o ", " gpt-4o", "gpt-4o\n", "gpt\u00a04o", "gpt\u20034o", 7, ["m"]]
)
def test_a_name_with_white_space_or_none_at_all_is_refused(name: object) -> None:
    """A provider may well ignore a space; the catalog's weights and prices are found by the name as it stands."""
    with pytest.raises(InvalidRequest) as raised:
        model(name)
    assert raised.value.parameter == "model"
