"""What was left out of a request before it was sent to the provider: named in the header X-Tollkeeper-Dropped.

Left out is what the provider would host and bill, and what its wire format cannot express, where the answer needs
neither: a tool that is declared, a hint, an item of an earlier answer.
"""


class Dropped:
    """Collects the names of what was left out, each once.

    All names are written in this code or in the operator's catalog, never the caller's.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.untranslated: list[str] = []
        """The names of what is left out if the request is translated to another wire format."""

    def add(self, *names: str) -> None:
        self._names.update(dict.fromkeys(names))

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order in which they were first added."""
        return tuple(self._names)
