"""The interface of the upstream's wires, and the encoding of their events."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from journeys.upstream.script import SECRET, Answer, Body, Script

CREATED = 1_700_000_000


class Frame(NamedTuple):
    """An event of a stream. `part` names the part of the answer that `text` belongs to; `last` marks the event that
    ends the answer on the wire.
    """

    document: Any
    event: str = ""
    part: str = ""
    text: str = ""
    last: bool = False


class Wire(Protocol):
    """Writes answers in the format of a wire."""

    name: str
    media_type: str
    """The content type of a stream."""

    def streams(self, body: Body) -> bool: ...

    def limit(self, body: Body) -> int | None:
        """The output limit of a request, in tokens."""
        ...

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        """The whole answer. `number` makes its id."""
        ...

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        """The answer as a stream."""
        ...

    def error(self, status: int) -> dict[str, Any]:
        """The body of an error status, with SECRET in it."""
        ...

    def error_frame(self, number: int) -> Frame:
        """The error event of a stream after `number` events, with SECRET in it."""
        ...


def to_bytes(document: Any) -> bytes:
    """JSON as providers write it: characters are not escaped unless they must be."""
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document).encode()


def encode(frame: Frame, script: Script, media_type: str) -> bytes:
    """An event as bytes, with the comments that the script sets."""
    data = frame.document.encode() if isinstance(frame.document, str) else to_bytes(frame.document)
    end = b"\r\n" if script.get("crlf") else b"\n"
    if media_type != "text/event-stream":
        return data + end + (end if script.get("comments") else b"")
    event = b"event: " + frame.event.encode() + end if frame.event else b""
    comment = b": keep-alive" + end + end if script.get("comments") else b""
    return event + b"data: " + data + end + end + comment


def garbage(script: Script, media_type: str) -> bytes:
    """Bytes that are neither JSON nor UTF-8."""
    end = b"\r\n" if script.get("crlf") else b"\n"
    field = b"data: " if media_type == "text/event-stream" else b""
    return field + b"{" + SECRET.encode() + b" \xff\xfe\x00" + end + end
