"""The text of a PDF document, page by page. Pictures of text have none."""

import io
import logging

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from tollkeeper.documents.parsing.formats import Unparseable

logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def text_of_pdf(content: bytes, max_characters: int) -> str:
    """The text, no more than this plus a page. Raises Unparseable."""
    pages, length = [], 0
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unparseable("The document is encrypted. Upload it without a password.")
        for page in reader.pages:
            text = page.extract_text().strip()
            pages.append(text)
            length += len(text)
            if length > max_characters:
                break
    except Unparseable:
        raise
    except MemoryError:
        raise
    except (PyPdfError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        raise Unparseable("The document is not a PDF that can be read.") from None
    text = "\n\n".join(filter(None, pages))
    if not text:
        raise Unparseable("The document has no text. A scanned document needs text recognition first.")
    return text
