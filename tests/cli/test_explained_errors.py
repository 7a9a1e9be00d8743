"""`tollkeeper quota explain` says what the error code of a charge means."""

import pytest

from tollkeeper.cli.charges import _format_error
from tollkeeper.errors import ContextOverflow


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("context_length_exceeded", f"context_length_exceeded: {ContextOverflow.sentence}"),
        ("provider_error", "provider_error"),
        ("CancelledError", "CancelledError"),
    ],
)
def test_a_code_is_shown_with_its_sentence_unless_several_errors_have_it(code: str, shown: str) -> None:
    assert _format_error(code) == shown
