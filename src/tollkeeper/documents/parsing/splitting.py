"""Splits a text into chunks, at the boundaries of its structure as far as they fit."""

from collections.abc import Iterator

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from tollkeeper.documents.parsing.splitting_size import MAX_CHUNK_CHARACTERS, MIN_CHUNK_CHARACTERS, OVERLAP_CHARACTERS

SECTION_CHARACTERS = 32 * 1024
"""The splitter takes quadratic time for a text without any boundary, so it is given sections."""


def chunks_of(text: str, *, is_markdown: bool) -> Iterator[str]:
    """The chunks of a text, in order, none of them empty."""
    kind = MarkdownSplitter if is_markdown else TextSplitter
    splitter = kind((MIN_CHUNK_CHARACTERS, MAX_CHUNK_CHARACTERS), overlap=OVERLAP_CHARACTERS)
    for section in _sections(text):
        for chunk in splitter.chunks(section):
            if chunk.strip():
                yield chunk


def _sections(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > SECTION_CHARACTERS:
        end = start + SECTION_CHARACTERS
        for boundary in ("\n\n", "\n", " "):
            found = text.rfind(boundary, start + SECTION_CHARACTERS // 2, end)
            if found > 0:
                end = found + len(boundary)
                break
        yield text[start:end]
        start = end
    yield text[start:]
