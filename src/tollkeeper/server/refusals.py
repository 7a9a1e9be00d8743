"""The responses to requests that are refused before the application sees them."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

RETRY_AFTER_S = 5

_TEXTS = {
    400: "This is not a valid HTTP/1.1 request with one Host.",
    408: "The request was not sent in time.",
    431: "The head of the request is too large: see TOLLKEEPER_MAX_HEAD_BYTES and TOLLKEEPER_MAX_HEAD_FIELDS.",
    503: "Too many open connections: see TOLLKEEPER_MAX_CONNECTIONS and TOLLKEEPER_MAX_CONNECTIONS_PER_ADDRESS.",
}


def refusal(status: int) -> bytes:
    """The whole response with this status, which closes the connection."""
    text = _TEXTS[status].encode()
    retry = b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b""
    head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n"
    return STATUS_LINE[status] + head % (len(text), retry) + text
