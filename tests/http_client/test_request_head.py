"""The head of a request: what is sent, and what is refused before anything is sent."""

import pytest

from tollkeeper.providers.http.request_head import MAX_PATHS, RequestHeads


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://example.com", "/x?v=1", "example.com"),
        ("http://example.com:80/v1", "/v1/x?v=1", "example.com"),
        ("https://example.com:443/v1", "/v1/x?v=1", "example.com"),
        ("https://example.com:8443", "/x?v=1", "example.com:8443"),
        ("http://[::1]:9000/a", "/a/x?v=1", "[::1]:9000"),
        ("http://bücher.example", "/x?v=1", "xn--bcher-kva.example"),
    ],
)
def test_a_request_names_its_target_and_host(url: str, line: str, host: str) -> None:
    head = RequestHeads(url, {"X-Key": "k"}).encode("/x?v=1", None, 3)
    assert head == f"POST {line} HTTP/1.1\r\nHost: {host}\r\nX-Key: k\r\nContent-Length: 3\r\n\r\n".encode()


def test_further_headers_do_not_replace_those_of_the_provider_or_of_the_message() -> None:
    heads = RequestHeads("http://x", {"Authorization": "Bearer secret"})
    further = {"authorization": "Bearer other", "CONTENT-LENGTH": "9", "host": "y", "anthropic-beta": "a,b"}
    head = heads.encode("/", {**further, "Transfer-Encoding": "chunked"}, 0)
    assert head == (
        b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
        b"anthropic-beta: a,b\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\x00"), ("X: y", "a"), ("", "a"), ("X\r\nY", "a")]
)
def test_a_header_that_would_be_another_one_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not allow"):
        RequestHeads("http://x", {name: value})
    with pytest.raises(ValueError, match="not allow"):
        RequestHeads("http://x", {}).encode("/", {name: value}, 0)


@pytest.mark.parametrize("url", ["", "not a url", "http://", "ftp://x", "//x", "http:///path"])
def test_a_base_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        RequestHeads(url, {})


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/ü", '/"'])
def test_a_path_is_quoted(path: str) -> None:
    line = RequestHeads("http://x", {}).encode(path, None, 0).split(b"\r\n")[0]
    assert line.isascii()
    assert len(line.split(b" ")) == 3


def test_a_limited_number_of_paths_is_kept() -> None:
    """Callers can invent the names of deployments, which are part of Azure's older addresses."""
    heads = RequestHeads("http://x", {})
    for number in range(MAX_PATHS + 10):
        assert b" /deployments/%d HTTP" % number in heads.encode(f"/deployments/{number}", None, 0)
    assert len(heads._begins) <= MAX_PATHS
