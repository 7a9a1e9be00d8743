"""URLs of images: which are accepted, and how many bytes of an image they contain."""

import pytest

from tollkeeper.dialects.images import inline_image_bytes
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

PUBLIC = [
    "https://example.com/a.png",
    "https://EXAMPLE.Com",
    "https://example.com./a.png",
    "https://example.com:443/a.png?x=@127.0.0.1",
    "https://example.com:/a.png",
    "https://a_b-c.example.co.uk#localhost",
    "https://example.com?at=http://localhost",
    "https://1.example.com/a\\b.png",
    "https://localhost.example.com/",
    "https://notlocal.example/",
    "https://b\u00fccher.example/\u5716.png",
    "https://\u4f8b\u3048.jp/",
    "https://xn--bcher-kva.example/",
]
ADDRESSES = [
    "127.0.0.1",
    "127.0.0.1.",
    "10.0.0.1:443",
    "8.8.8.8",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.0x1",
    "0177.0.0.01",
    "017700000001",
    "0x",
    "example.0x7f",
    "example.1",
    "[::1]",
    "[::1]:443",
    "[::ffff:127.0.0.1]",
    "[fe80::1%25eth0]",
    "[v1.x]",
    "127%2e0%2e0%2e1",
    "%31%32%37.0.0.1",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\uff0e0\uff611",
    "\u2460\u2461\u2466.0.0.1",
    "127.0.0.1\u00ad",
    "127.0.0.1\ufe01",
    "127.0.0.1\u17b4",
    "127.0.0.\U0001d7cf",
]
PRIVATE_NAMES = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost:443",
    "api.localhost",
    "printer.local",
    "Printer.LOCAL.",
    "metadata.google.internal",
    "home.arpa",
    "nas.home.arpa",
    "intranet",
    "loc\u00adalhost",
    "\uff4c\uff4f\uff43\uff41\uff4clhost.localhost",
    "api.lo\u200bcalhost",
    "api\u3002localhost\u17b4",
    "nas.home%2earpa",
]
ODD_AUTHORITIES = [
    "",
    "/example.com",
    "//127.0.0.1",
    ".",
    "..",
    ".com",
    "example..com",
    "example.com..",
    "me@example.com",
    "me:secret@example.com",
    "example.com@127.0.0.1",
    "example.com:443@127.0.0.1",
    "example.com\\@127.0.0.1",
    "127.0.0.1\\.example.com",
    "example.com:80",
    "example.com:0443",
    "example.com:443:443",
    "example.com:x",
    "example.com\uff0f@127.0.0.1",
    "example.com\uff03",
    "exa mple.com",
    "exa\tmple.com",
    "example.com/a\nb",
    "example.com\x00",
    "ex%61mple.com",
    "a" * 64 + ".com",
    "a." * 127 + "com",
    "\u00fc" * 64 + ".com",
]


@pytest.mark.parametrize("url", PUBLIC)
def test_an_https_url_of_a_public_host_contains_no_bytes_of_the_image(url: str) -> None:
    assert inline_image_bytes(url, "input") == 0


@pytest.mark.parametrize("authority", [*ADDRESSES, *PRIVATE_NAMES, *ODD_AUTHORITIES], ids=ascii)
def test_an_https_url_of_another_host_is_refused(authority: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        inline_image_bytes(f"https://{authority}/a.png", "messages.content")
    assert refused.value.parameter == "messages.content"
    assert refused.value.detail.startswith("messages.content: the address must name a public host")
    assert not authority or f"/{authority}/" not in refused.value.detail


def test_of_a_data_url_only_the_data_counts() -> None:
    assert inline_image_bytes("data:image/png;base64,aGVsbG8=", "input") == len("aGVsbG8=")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "https:\\\\localhost",
        "data:application/pdf;base64,AA",
        "",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        inline_image_bytes(url, "messages.content")
    assert refused.value.parameter == "messages.content"
