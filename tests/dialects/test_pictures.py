"""Pictures by their address: which may go out, and what of a URL is the picture itself."""

import pytest

from tollkeeper.dialects.pictures import bytes_sent
from tollkeeper.errors import UnsupportedParameter


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "https://10.0.0.1/a.png",
        "http://example.com",
        "http://example.com/a.png?b#c",
        "http://example.com:8080/a.png",
        "http://EXAMPLE.com./a.png",
        "http://xn--bcher-kva.example?x=http://10.0.0.1",
        "http://pictures_2.my-host.co.uk/a@b.png",
        "http://93.184.216.34/a.png",
    ],
)
def test_an_address_on_the_internet_passes_and_is_no_picture_itself(url: str) -> None:
    assert bytes_sent(url, "input") == 0


def test_of_a_picture_that_is_sent_along_only_its_data_is_the_picture() -> None:
    assert bytes_sent("data:image/png;base64,aGVsbG8=", "input") == len("aGVsbG8=")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost.",
        "printer",
        "pictures.localhost",
        "nas.local",
        "metadata.google.internal",
        "METADATA.google.INTERNAL.",
        "router.lan",
        "box.home.arpa",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "10.0.0.1",
        "10.0.0.1.",
        "100.64.0.1",
        "169.254.169.254",
        "192.168.1.1:80",
        "0.0.0.0",
        "[::1]",
        "[::ffff:169.254.169.254]",
        "example.com@169.254.169.254",
        "example.com:80@169.254.169.254",
        "example.com\\@169.254.169.254",
        "example.com%2f@169.254.169.254",
        "１２７.0.0.1",
        "example.com\n",
        "",
        ".",
    ],
)
def test_plain_http_leads_to_no_host_that_looks_inner(host: str) -> None:
    for path in ("", "/a.png"):
        with pytest.raises(UnsupportedParameter) as refused:
            bytes_sent(f"http://{host}{path}", "messages.content")
        assert refused.value.parameter == "messages.content"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a.png", "data:application/pdf;base64,AA", ""])
def test_nothing_else_is_a_picture(url: str) -> None:
    with pytest.raises(UnsupportedParameter):
        bytes_sent(url, "input")
