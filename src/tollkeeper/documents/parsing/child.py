"""The process that parses one document: it reads the document from its standard input, and writes the chunks.

The first line of the input is the media type, the rest the document. Each line of the output is a chunk as JSON; the
last line is an object with the number of chunks, or with the error. Limits are set before the document is read: memory,
CPU time, and no new file descriptor. So the process can open no file and no socket, and start no process that could.
"""

import encodings
import importlib
import json
import pkgutil
import resource
import sys
from collections.abc import Iterator

from tollkeeper.documents.parsing.docx import text_of_docx
from tollkeeper.documents.parsing.formats import DocumentFormat, Unparseable
from tollkeeper.documents.parsing.html import text_of_html
from tollkeeper.documents.parsing.splitting import chunks_of

MAX_MEMORY_BYTES = 512 * 1024 * 1024
MAX_CPU_S = 30
MAX_CHARACTERS = 20 * 1024 * 1024
MAX_CHUNKS = 25_000
"""A text of 20 MiB has about as many."""
TOO_LARGE = "The document has more text than is accepted: 20 MiB."


def main() -> None:
    """Parse one document. The exit code is 0 also for a document that cannot be parsed."""
    media_type = sys.stdin.buffer.readline().decode().strip()
    _load_all(DocumentFormat(media_type))
    _limit()
    try:
        count = 0
        for chunk in _chunks(DocumentFormat(media_type), sys.stdin.buffer.read()):
            count += 1
            if count > MAX_CHUNKS:
                raise Unparseable(TOO_LARGE)
            sys.stdout.write(json.dumps(chunk) + "\n")
        end: dict[str, object] = {"chunks": count}
    except Unparseable as error:
        end = {"error": str(error)}
    except (MemoryError, RecursionError):
        end = {"error": "The document takes too much memory to be parsed."}
    sys.stdout.write(json.dumps(end) + "\n")
    sys.stdout.flush()


def _chunks(kind: DocumentFormat, content: bytes) -> Iterator[str]:
    text = _text(kind, content)
    if len(text) > MAX_CHARACTERS:
        raise Unparseable(TOO_LARGE)
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return chunks_of(text, is_markdown=kind is DocumentFormat.MARKDOWN)


def _text(kind: DocumentFormat, content: bytes) -> str:
    match kind:
        case DocumentFormat.TEXT | DocumentFormat.MARKDOWN:
            try:
                return content.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise Unparseable("The document is not UTF-8 text.") from None
        case DocumentFormat.HTML:
            return text_of_html(content)
        case DocumentFormat.DOCX:
            return text_of_docx(content)
        case DocumentFormat.PDF:
            from tollkeeper.documents.parsing.pdf import text_of_pdf

            return text_of_pdf(content, MAX_CHARACTERS)


def _load_all(kind: DocumentFormat) -> None:
    """Import what the parser may need: later it can open no file."""
    _import_modules_of(encodings)
    if kind is DocumentFormat.PDF:
        import pypdf

        import tollkeeper.documents.parsing.pdf  # noqa: F401

        _import_modules_of(pypdf)


def _import_modules_of(package: object) -> None:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):  # type: ignore[attr-defined]
        try:
            importlib.import_module(module.name)
        except ImportError:  # of another system, or with an optional dependency
            continue


def _limit() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
