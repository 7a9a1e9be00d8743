"""The text of an HTML document, as a reader sees it: without scripts, styles and comments."""

import codecs
import re
from html.parser import HTMLParser

from tollkeeper.documents.parsing.formats import Unparseable

_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object"})
_BLOCK_NAMES = """
address article aside blockquote br caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
h5 h6 header hr legend li main nav ol option p pre section summary table tbody tfoot thead title tr ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CELLS = frozenset({"td", "th"})
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([A-Za-z0-9._-]{1,40})", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*\n\s*")
HEAD_BYTES = 1_024
"""Where a document declares its encoding (HTML, "Specifying the document's character encoding")."""


class _Text(HTMLParser):
    """Collects the text. Each block is a paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag in _CELLS:
            self.parts.append("\t")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def text_of_html(content: bytes) -> str:
    """Raises Unparseable."""
    reader = _Text()
    reader.feed(_decoded(content))
    reader.close()
    return _LINES.sub("\n\n", _SPACE.sub(" ", "".join(reader.parts))).strip()


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    declared = _CHARSET.search(content[:HEAD_BYTES])
    try:
        return content.decode(declared[1].decode() if declared is not None else "cp1252", "replace")
    except LookupError:
        raise Unparseable("The document declares an encoding that is not known.") from None
