"""PDF documents in a request: an estimate of their pages."""

import binascii
import re

import msgspec

from tollkeeper.worker_thread import pause

PDF_PAGE_TOKENS = 4_500
"""The tokens of a page: at most about 3,000 of text, and those of its image (Claude API, "PDF support", costs)."""
BYTES_PER_PAGE = 50_000
"""Of a PDF whose pages are in compressed objects, so that they cannot be counted."""

_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")


def pdf_pages(data: msgspec.Raw) -> int:
    """About how many pages a PDF has, from its base64 data as a JSON string; at least 1.

    This is no bound: the objects of a PDF may be compressed, and one that is in it once may be shown many times.
    """
    pause()
    try:
        document = binascii.a2b_base64(memoryview(data)[1:-1])
    except ValueError:
        return 1
    pause()
    return len(_PAGE.findall(document)) or 1 + len(document) // BYTES_PER_PAGE
