"""The process that parses documents: what it reads, and what it refuses; its limits hold."""

import asyncio
import io
import os
import sys
import zipfile

import pytest

from tollkeeper.documents.parsing import child, docx, process
from tollkeeper.documents.parsing.formats import DocumentFormat, Unparseable, format_of
from tollkeeper.documents.parsing.html import text_of_html
from tollkeeper.documents.parsing.process import parse
from tollkeeper.documents.parsing.splitting import chunks_of
from tollkeeper.documents.parsing.splitting_size import MAX_CHUNK_CHARACTERS

WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx_of(main: str, **others: bytes) -> bytes:
    """A DOCX document whose main part is this XML."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(docx.MAIN, main)
        for name, content in others.items():
            archive.writestr(name, content)
    return packed.getvalue()


def pdf_of(text: str) -> bytes:
    """A PDF document of one page (ISO 32000-1, annex H.2), without a table of references: readers make one."""
    stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    )
    written, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(written)
    written += b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer << /Size 6 /Root 1 0 R >>\n"
    return written + b"startxref\n%d\n%%%%EOF\n" % start


def test_a_format_is_found_by_the_media_type_or_else_by_the_name() -> None:
    assert format_of("text/markdown; charset=utf-8", "x.pdf") is DocumentFormat.MARKDOWN
    for unspecific in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        assert format_of(unspecific, "Report.PDF") is DocumentFormat.PDF
        assert format_of(unspecific, "report") is None
    assert format_of("image/png", "x.pdf") is None


async def test_each_format_is_parsed_in_the_process() -> None:
    run = "<w:r><w:t>Seven</w:t><w:tab/><w:t>years</w:t><w:delText>no</w:delText></w:r>"
    paragraphs = f"<w:document {WORD}><w:body><w:p>{run}</w:p></w:body></w:document>"
    for kind, content, expected in (
        (DocumentFormat.TEXT, b"\xef\xbb\xbfSeven years.", "Seven years."),
        (DocumentFormat.MARKDOWN, b"# Warranty\n\nSeven years.", "# Warranty\n\nSeven years."),
        (DocumentFormat.HTML, b"<p>Seven<script>no</script> years.", "Seven years."),
        (DocumentFormat.DOCX, docx_of(paragraphs), "Seven\tyears"),
        (DocumentFormat.PDF, pdf_of("Seven years."), "Seven years."),
    ):
        assert await parse(kind, content) == [expected], kind


async def test_what_cannot_be_parsed_is_refused_with_a_reason() -> None:
    entity = '<!DOCTYPE x [<!ENTITY a "b">]>' + f"<w:document {WORD}>&a;</w:document>"
    for kind, content, reason in (
        (DocumentFormat.TEXT, b"\xff\xfa", "not UTF-8"),
        (DocumentFormat.MARKDOWN, b" \n ", "no text"),
        (DocumentFormat.PDF, b"%PDF-1.4 broken", "not a PDF"),
        (DocumentFormat.DOCX, b"PK broken", "not a DOCX"),
        (DocumentFormat.DOCX, docx_of(entity), "entities"),
        (DocumentFormat.DOCX, docx_of("<w:unclosed"), "not a DOCX"),
    ):
        with pytest.raises(Unparseable, match=reason):
            await parse(kind, content)


def test_an_archive_that_is_too_large_unpacked_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = docx_of("<x/>", filler=bytes(docx.MAX_UNPACKED_BYTES + 1))
    assert len(bomb) < 200_000
    with pytest.raises(Unparseable, match="too large"):
        docx.text_of_docx(bomb)
    monkeypatch.setattr(docx, "MAX_FILES", 1)
    with pytest.raises(Unparseable, match="too large"):
        docx.text_of_docx(docx_of("<x/>", other=b""))


def test_an_archive_that_lies_about_its_size_is_refused_while_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = docx_of("<x>" + " " * 200_000 + "</x>")
    monkeypatch.setattr(docx, "MAX_UNPACKED_BYTES", 100_000)
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda _: [])
    with pytest.raises(Unparseable, match="too large"):
        docx.text_of_docx(packed)


ATTACKS = {
    "memory": "bytearray(1024 * 1024 * 1024)",
    "a file": "open('/etc/passwd')",
    "a socket": "__import__('socket').socket()",
    "a process": "__import__('os').pipe()",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_parser_that_is_taken_over_gets_no_memory_file_or_socket(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack runs in place of the parser. It would succeed without the limits."""
    code = (
        "import socket\nfrom tollkeeper.documents.parsing import child\n"
        f"def attack(*_):\n    try:\n        {attack}\n    except (OSError, MemoryError):\n        return 'refused'\n"
        "    return 'succeeded'\n"
        "child._text = attack\nchild.main()"
    )
    monkeypatch.setattr(process, "CODE", code)
    assert await parse(DocumentFormat.TEXT, b"x") == ["refused"]


async def test_the_process_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_DATA_KEY", "secret")
    code = (
        "import os\nfrom tollkeeper.documents.parsing import child\n"
        "child._text = lambda *_: ','.join(sorted(os.environ)) or 'empty'\nchild.main()"
    )
    monkeypatch.setattr(process, "CODE", code)
    assert "TOLLKEEPER" not in str(await parse(DocumentFormat.TEXT, b"x"))


@pytest.mark.parametrize("code", ["while True: pass", "import os; os.kill(os.getpid(), 9)", "print('{}')", ""])
async def test_a_process_that_hangs_or_ends_early_is_a_document_that_cannot_be_parsed(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CODE", code)
    monkeypatch.setattr(process, "MAX_SECONDS", 1.0)
    with pytest.raises(Unparseable, match="too much time or memory"):
        await parse(DocumentFormat.TEXT, b"x" * 1_000_000)


async def test_a_process_that_writes_too_much_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CODE", "while True: print('x' * 1000)")
    monkeypatch.setattr(process, "MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(Unparseable):
        await parse(DocumentFormat.TEXT, b"x")


async def test_a_process_is_killed_while_its_output_waits_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is paused then: asyncio would wait for ever for its end."""

    async def fail(child: asyncio.subprocess.Process) -> bytes:
        assert child.stdout is not None
        transport = child._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        while transport.is_reading():
            await asyncio.sleep(0.01)
        raise Unparseable("too much")

    monkeypatch.setattr(process, "CODE", "while True: print('x' * 1000)")
    monkeypatch.setattr(process, "_receive", fail)
    with pytest.raises(Unparseable, match="too much"):
        await parse(DocumentFormat.TEXT, b"x")


async def test_a_cancelled_parse_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CODE", "import time; time.sleep(60)")
    started: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def noted(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        assert arguments[0] == sys.executable
        started.append(await create(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    task = asyncio.create_task(parse(DocumentFormat.TEXT, b"x"))
    while not started:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_chunks_have_all_words_of_the_text_in_order_and_no_more_than_their_size() -> None:
    words = [f"word{number}" for number in range(20_000)]
    text = " ".join(f"{word}\n\n" if number % 40 == 0 else word for number, word in enumerate(words))
    chunks = list(chunks_of(text, is_markdown=False))
    assert max(map(len, chunks)) <= MAX_CHUNK_CHARACTERS
    seen = dict.fromkeys(word for chunk in chunks for word in chunk.split())
    assert list(seen) == words
    assert max(map(len, chunks_of("x" * 100_000, is_markdown=True))) <= MAX_CHUNK_CHARACTERS


def test_html_has_its_text_in_the_encoding_that_it_declares() -> None:
    assert text_of_html("<p>Grün</p>".encode("utf-16")) == "Grün"
    assert text_of_html(b'<meta charset="iso-8859-1"><p>Gr\xfcn</p>') == "Grün"
    assert text_of_html(b"<h1>a</h1><table><tr><td>b</td><td>c</td></tr></table><style>d</style>e") == "a\n\nb c\n\ne"
    with pytest.raises(Unparseable, match="encoding"):
        text_of_html(b"<meta charset=nonsense>\xff")


def test_a_document_with_too_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_CHARACTERS", 10)
    with pytest.raises(Unparseable, match="more text"):
        child._chunks(DocumentFormat.TEXT, b"x" * 11)
