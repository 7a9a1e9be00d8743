"""The body of a login: media types, charsets, and the decoding of forms."""

import pytest

from tollkeeper.api.auth import JSON, _media_type
from tollkeeper.api.forms import FORM, fields_of
from tollkeeper.errors import InvalidRequest, UnsupportedMediaType


@pytest.mark.parametrize("parameter", ["", "; charset=utf-8", ";charset=UTF-8", '; charset="utf-8"', "; charset=utf8"])
@pytest.mark.parametrize("media_type", [FORM, JSON])
def test_forms_and_json_in_utf_8_are_accepted(media_type: str, parameter: str) -> None:
    assert _media_type([media_type.upper() + parameter]) == media_type


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["text/plain"],
        ["multipart/form-data; boundary=x"],
        ["multipart/form-data; charset=punycode"],
        [f"{FORM}; charset=punycode"],
        [f"{FORM}; charset=utf-16"],
        [f"{FORM}; charset=utf-8; charset=idna"],
        [f"{JSON}; charset=idna"],
        [FORM, JSON],
    ],
)
def test_other_media_types_and_charsets_are_refused(values: list[str]) -> None:
    with pytest.raises(UnsupportedMediaType):
        _media_type(values)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", {}),
        (b"username=a%40b&password=p+q%2B", {"username": "a@b", "password": "p q+"}),
        (b"username=&password=%C3%A4", {"username": "", "password": "ä"}),
        ("username=ä;b&password=x=y".encode(), {"username": "ä;b", "password": "x=y"}),
    ],
)
def test_a_form_is_decoded_as_utf_8(body: bytes, fields: dict[str, str]) -> None:
    assert fields_of(body) == fields


@pytest.mark.parametrize(
    "body", [b"a=1&a=2", b"password=%ff", b"password=\xff", b"&".join(b"f%d=" % number for number in range(50))]
)
def test_a_form_with_duplicate_or_many_fields_or_invalid_utf_8_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        fields_of(body)
