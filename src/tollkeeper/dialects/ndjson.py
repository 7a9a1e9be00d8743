"""Splits a stream of newline-delimited JSON (NDJSON) into lines."""

from tollkeeper.dialects.answer_checks import MalformedAnswer

MAX_LINE_BYTES = 4 * 1024 * 1024


class Splitter:
    """Collects network blocks and returns complete lines, without blank ones. The last line may lack its newline."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that this block completes. Raises MalformedAnswer for a line longer than MAX_LINE_BYTES."""
        if b"\n" not in block:
            self._rest += block
            lines = []
        else:
            *lines, rest = (bytes(self._rest) + block).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE_BYTES:
            raise MalformedAnswer
        return [line for line in lines if line.strip()]

    def end(self) -> list[bytes]:
        """The last line, if it lacks its newline, once the stream has ended."""
        return [bytes(self._rest)] if self._rest.strip() else []
