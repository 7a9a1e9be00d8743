"""Pictures by their address: which may go out, and what of a URL is the picture itself."""

import pytest

from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.errors import UnsupportedParameter


def test_an_address_is_no_picture_itself() -> None:
    assert inline_image_bytes("https://example.com/a.png", "input") == 0


def test_of_a_picture_that_is_sent_along_only_its_data_is_the_picture() -> None:
    assert inline_image_bytes("data:image/png;base64,aGVsbG8=", "input") == len("aGVsbG8=")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "data:application/pdf;base64,AA",
        "",
    ],
)
def test_nothing_else_is_a_picture(url: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        inline_image_bytes(url, "messages.content")
    assert refused.value.parameter == "messages.content"
