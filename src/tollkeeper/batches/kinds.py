"""What a batch needs of the API whose lines it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tollkeeper.errors import BatchError
from tollkeeper.files.models import Purpose


@dataclass(frozen=True, slots=True)
class LineProblem(Exception):
    """A line of a batch is not valid. `parameter` is the field at fault."""

    code: str
    message: str
    parameter: str | None = None


class BatchKind(Protocol):
    """The lines of the batches of one endpoint."""

    @property
    def max_line_bytes(self) -> int:
        """How long a line may be."""
        ...

    @property
    def output_purpose(self) -> Purpose:
        """The purpose of the files with results."""
        ...

    @property
    def splits_errors(self) -> bool:
        """Whether failures are written to a file of their own."""
        ...

    @property
    def deletes_input(self) -> bool:
        """Whether the input file belongs to the batch, and is deleted at its end."""
        ...

    def read_line(self, content: bytes) -> str:
        """Check a line, but not the request that it has. Returns its id, which must be unique. Raises LineProblem."""
        ...

    def render_unmade(self, line_id: str, error: BatchError) -> bytes:
        """The line of results for a request that was not made, without a line break."""
        ...


BatchKinds = Mapping[str, BatchKind]
