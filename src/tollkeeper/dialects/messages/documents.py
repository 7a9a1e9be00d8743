"""PDF documents in a request: an estimate of their pages."""

import binascii
import re

import msgspec

from tollkeeper.worker_thread import pause

PDF_PAGE_TOKENS = 4_500
"""The tokens of a page: at most about 3,000 of text, and those of its image (Claude API, "PDF support", costs)."""
BYTES_PER_PAGE = 50_000
"""Of a PDF whose pages are in compressed objects, so that they cannot be counted."""

MAX_PAGES = 10_000
"""More than any model takes."""

_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_SLICE_CHARACTERS = 64 * 1024


def pdf_pages(data: msgspec.Raw) -> int:
    """About how many pages a PDF has, from its base64 data as a JSON string; from 1 to MAX_PAGES.

    This is no bound: the objects of a PDF may be compressed, and one that is in it once may be shown many times.
    """
    encoded = memoryview(data)[1:-1]
    pages = size = 0
    for start in range(0, len(encoded), _SLICE_CHARACTERS):
        pause()
        try:
            document = binascii.a2b_base64(encoded[start : start + _SLICE_CHARACTERS])
        except ValueError:
            return 1
        size += len(document)
        pages += sum(1 for _ in _PAGE.finditer(document))
    return min(pages or 1 + size // BYTES_PER_PAGE, MAX_PAGES)
