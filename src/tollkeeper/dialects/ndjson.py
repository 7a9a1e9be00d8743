"""JSON, one document a line, taken apart (the NDJSON of many servers)."""

from tollkeeper.dialects.reading import BadAnswer

MAX_LINE_BYTES = 4 * 1024 * 1024


class Splitter:
    """Takes blocks as the network cuts them; gives whole lines. Blank ones are left out, and the last needs no end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that this block completes. Raises BadAnswer when one does not end."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BadAnswer
        return [line for line in lines if line.strip()]

    def end(self) -> list[bytes]:
        """What is left when there is no more."""
        return [self._rest] if self._rest.strip() else []
