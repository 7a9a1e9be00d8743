"""The text of a DOCX document (ECMA-376, part 1: WordprocessingML). Its XML may declare no entities."""

import io
import zipfile
import zlib
from xml.parsers import expat

from tollkeeper.documents.parsing.formats import Unparseable

MAX_UNPACKED_BYTES = 100 * 1024 * 1024
"""Of all files of the archive together."""
MAX_FILES = 10_000
PART_BYTES = 64 * 1024
MAIN = "word/document.xml"
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_TEXT, _TAB, _BREAK, _PARAGRAPH, _CELL = (_WORD + name for name in ("t", "tab", "br", "p", "tc"))


class _Text:
    """Collects the text of the main part."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._is_text = False
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse

    def feed(self, part: bytes, *, last: bool) -> None:
        """Raises Unparseable, ExpatError."""
        self._parser.Parse(part, last)

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        if name == _TEXT:
            self._is_text = True
        elif name == _TAB:
            self.parts.append("\t")
        elif name == _BREAK:
            self.parts.append("\n")

    def _end(self, name: str) -> None:
        if name == _TEXT:
            self._is_text = False
        elif name == _PARAGRAPH:
            self.parts.append("\n\n")
        elif name == _CELL:
            self.parts.append("\t")

    def _characters(self, text: str) -> None:
        if self._is_text:
            self.parts.append(text)

    def _refuse(self, *_: object) -> None:
        raise Unparseable("The document declares entities, which are not accepted.")


def text_of_docx(content: bytes) -> str:
    """Raises Unparseable."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive)
    except (zipfile.BadZipFile, expat.ExpatError, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        raise Unparseable("The document is not a DOCX document that can be read.") from None


def _read(archive: zipfile.ZipFile) -> str:
    files = archive.infolist()
    if len(files) > MAX_FILES or sum(one.file_size for one in files) > MAX_UNPACKED_BYTES:
        raise Unparseable("The document is too large when it is unpacked.")
    text, unpacked = _Text(), 0
    with archive.open(MAIN) as main:
        while part := main.read(PART_BYTES):
            unpacked += len(part)
            if unpacked > MAX_UNPACKED_BYTES:
                raise Unparseable("The document is too large when it is unpacked.")
            text.feed(part, last=False)
        text.feed(b"", last=True)
    return "".join(text.parts).strip()
