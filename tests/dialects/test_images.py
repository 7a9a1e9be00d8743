"""URLs of images: which are accepted, and how many bytes of an image they contain."""

import pytest

from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.errors import UnsupportedParameter


def test_an_https_url_contains_no_bytes_of_the_image() -> None:
    assert inline_image_bytes("https://example.com/a.png", "input") == 0


def test_of_a_data_url_only_the_data_counts() -> None:
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
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        inline_image_bytes(url, "messages.content")
    assert refused.value.parameter == "messages.content"
