"""How every command ends: quietly, or with one sentence on standard error and exit code 2."""

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from tollkeeper.errors import InvalidRequest, TollkeeperError

FAILED = 2


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command with these arguments (the process's own, if none are given). Returns the exit code.

    What the domain refuses, and what cannot be parsed, is one sentence on standard error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_encoding(given)
        code = app(given, prog_name=name, standalone_mode=False)
    except TollkeeperError as error:
        sentence = error.detail
    except TyperException as error:
        sentence = error.format_message()
        if "\n" in sentence or not sentence:  # the help that stands in for a missing command, not a sentence
            typer.echo(sentence, err=True)
            return FAILED
    except typer.Abort:
        sentence = "Nothing was entered, so nothing was done."
    else:
        return code if isinstance(code, int) else 0
    typer.echo(f"{name}: {sentence}", err=True)
    return FAILED


def _check_encoding(arguments: Sequence[str]) -> None:
    """Bytes that are no text reach Python as lone surrogates, which no database takes."""
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("An argument is not valid UTF-8.") from None
