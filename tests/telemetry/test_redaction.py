"""What is removed from a log line, and how exceptions are written."""

import pytest

from tollkeeper.telemetry.redaction import format_exception, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("key tk-aB3_x-9 was refused", "key *** was refused"),
        ("Bearer sk-proj-Ab_12-x", "Bearer ***"),
        ("'sk-ant-api03-x'", "'***'"),
        ("eyJhbGciOi.eyJzdWIi.s-_g end", "*** end"),
        ("postgresql://me:p@ss/w:rd@db:5432/x", "postgresql://***@db:5432/x"),
        ("redis://:secret@cache, http://u:p@h", "redis://***@cache, http://***@h"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("a risk-free task-12 of a disk-1", "a risk-free task-12 of a disk-1"),
    ],
)
def test_secrets_are_removed_and_the_rest_is_kept(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_a_long_text_of_beginnings_of_urls_is_redacted_in_time() -> None:
    assert len(redact("://a:" * 20_000)) == 100_000


def test_an_exception_is_written_with_its_causes_the_first_one_first() -> None:
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise ValueError("effect") from cause
    except ValueError as error:
        lines = format_exception(error).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "KeyError: 'cause'",
        "Traceback (most recent call last):",
        "ValueError: effect",
    ]


def test_a_suppressed_context_is_not_written() -> None:
    error = ValueError("shown")
    error.__context__ = KeyError("hidden")
    assert "hidden" in format_exception(error)
    error.__suppress_context__ = True
    assert "hidden" not in format_exception(error)


def test_every_exception_of_a_group_is_written() -> None:
    group = ExceptionGroup("two", [ValueError("one"), ExceptionGroup("inner", [KeyError("deep")])])
    for text in ("ExceptionGroup: two", "ValueError: one", "KeyError: 'deep'"):
        assert text in format_exception(group)


def test_a_chain_that_never_ends_and_a_message_that_cannot_be_read_are_written() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    first, second = Mute(), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "its message cannot be read" in format_exception(second)
