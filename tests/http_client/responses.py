"""Hypothesis strategies for responses, for ways to split them, and for damage to them."""

from hypothesis import strategies as st

BODIES = st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
FIELDS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: application/json",
            b"X-Empty:",
            b"x-request-id:   spaces  ",
            b"Set-Cookie: a=b; Path=/",
            b"Set-Cookie: c=d",
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"Connection: close",
        ]
    ),
    max_size=4,
    unique=True,
)
STATUS_LINES = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 429 Too Many"])
INTERIM = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
EXTENSIONS = st.sampled_from([b"", b";a=b", b';name="va;l\xe9ue" ', b" \t"])
TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"X-A: 1\r\nX-B: 2\r\n"])


@st.composite
def wire_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """The header of a body's length, the body as sent, and the body."""
    body = draw(BODIES)
    match draw(st.sampled_from(["sized", "chunked", "to the end"])):
        case "sized":
            return b"Content-Length: %d\r\n" % len(body), body, body
        case "chunked":
            pieces = [piece for piece in draw(st.lists(BODIES, max_size=4)) if piece]
            chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSIONS), piece) for piece in pieces)
            return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + draw(TRAILERS) + b"\r\n", b"".join(pieces)
        case _:
            return b"", body, body


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """A valid response as sent, its status and its body."""
    length, sent, body = draw(wire_bodies())
    line = draw(STATUS_LINES)
    fields = b"".join(field + b"\r\n" for field in draw(FIELDS))
    return draw(INTERIM) + line + b"\r\n" + fields + length + b"\r\n" + sent, int(line.split()[1]), body


@st.composite
def splits(draw: st.DrawFn, sent: bytes) -> list[bytes]:
    """The bytes in blocks, none of which is empty."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(sent) - 1)), max_size=8)))
    blocks = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return [block for block in blocks if block]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A response with a few bytes changed, inserted or removed."""
    sent = bytearray(draw(responses())[0])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(sent) - 1)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change" if sent:
                sent[place] = draw(st.integers(0, 255))
            case "insert":
                sent[place:place] = draw(
                    st.sampled_from([b"\r\n", b"\n", b"\x00", b" ", b"0", b"Content-Length: 3\r\n"])
                )
            case "remove":
                del sent[place : place + draw(st.integers(1, 4))]
            case _:
                del sent[place:]
    return bytes(sent)
