"""Run a command: map its errors to one sentence on standard error and an exit code."""

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from tollkeeper.cli.output import print_line
from tollkeeper.errors import InvalidRequest, TollkeeperError

EXIT_ERROR = 2


def run(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command with these arguments, by default the process's own. Returns the exit code.

    An error of the domain or of the argument parser is printed as one sentence on standard error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_encoding(arguments)
        code = app(arguments, prog_name=program, standalone_mode=False)
    except TollkeeperError as error:
        message = error.detail
    except TyperException as error:
        message = error.format_message()
        if "\n" in message or not message:  # typer prints the help text in place of a missing command
            for line in message.splitlines() or [""]:
                print_line(line, error=True)
            return EXIT_ERROR
    except typer.Abort:
        message = "Aborted: nothing was entered and nothing was changed."
    else:
        return code if isinstance(code, int) else 0
    print_line(f"{program}: {message}", error=True)
    return EXIT_ERROR


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raises InvalidRequest. Python decodes invalid UTF-8 to lone surrogates, which the databases do not accept."""
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("An argument is not valid UTF-8.") from None
