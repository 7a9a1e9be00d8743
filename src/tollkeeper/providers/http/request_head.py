"""The heads of requests to one base URL, as bytes. What is the same in each is written once per path."""

import re
from collections.abc import Mapping

from yarl import URL

MAX_PATHS = 1_000
"""How many paths are kept encoded. Callers can invent the names of deployments in them."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_OWN_NAMES = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class RequestHeads:
    """`headers` are sent with each request, instead of further headers with the same names.

    Raises ValueError for a base URL without a host, and for a name or value that HTTP does not allow.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._base_url = base_url
        url = URL(base_url)
        if url.scheme not in ("http", "https") or not url.raw_host or url.port is None:
            raise ValueError("not a URL with http or https and a host")
        self.host, self.port, self.is_https = url.raw_host, url.port, url.scheme == "https"
        host = f"[{url.raw_host}]" if ":" in url.raw_host else url.raw_host
        host = host if url.is_default_port() else f"{host}:{url.port}"
        self._lines = _encode({"Host": host, **headers})
        self._names = _OWN_NAMES | {name.lower() for name in headers}
        self._begins: dict[str, bytes] = {}

    def encode(self, path: str, headers: Mapping[str, str] | None, length: int) -> bytes:
        """The head of a request with a body of this length. Raises ValueError for a header that HTTP does not allow."""
        begin = self._begins.get(path) or self._encode_begin(path)
        if headers:
            begin += _encode({name: value for name, value in headers.items() if name.lower() not in self._names})
        return b"%bContent-Length: %d\r\n\r\n" % (begin, length)

    def _encode_begin(self, path: str) -> bytes:
        if len(self._begins) >= MAX_PATHS:
            self._begins.clear()
        target = URL(self._base_url + path).raw_path_qs
        begin = self._begins[path] = b"POST %b HTTP/1.1\r\n%b" % (target.encode("ascii"), self._lines)
        return begin


def _encode(headers: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in headers.items():
        encoded = value.encode()
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(encoded) is None:
            raise ValueError("a header has a character that HTTP does not allow")
        lines.append(b"%b: %b\r\n" % (name.encode("ascii"), encoded))
    return b"".join(lines)
