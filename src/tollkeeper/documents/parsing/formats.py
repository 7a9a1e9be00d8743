"""The formats of documents that can be parsed."""

from enum import StrEnum


class DocumentFormat(StrEnum):
    """A format, by its media type."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


SUFFIXES = {
    ".txt": DocumentFormat.TEXT,
    ".md": DocumentFormat.MARKDOWN,
    ".markdown": DocumentFormat.MARKDOWN,
    ".html": DocumentFormat.HTML,
    ".htm": DocumentFormat.HTML,
    ".pdf": DocumentFormat.PDF,
    ".docx": DocumentFormat.DOCX,
}
"""By the ends of file names."""
UNSPECIFIC = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""What clients send that do not know the media type: `curl --data-binary` names a form."""


class Unparseable(Exception):
    """A document that cannot be parsed. The text says why, without anything of the document."""


def format_of(media_type: str, name: str) -> DocumentFormat | None:
    """The format of a document by its media type or, where that says nothing, by its name; None for another one."""
    essence = media_type.partition(";")[0].strip().lower()
    if essence in UNSPECIFIC:
        return next((found for suffix, found in SUFFIXES.items() if name.lower().endswith(suffix)), None)
    return next((known for known in DocumentFormat if known.value == essence), None)
