"""The `tollkeeper` command: a surface, like the API."""

import sys

from tollkeeper.garbage_collection import collect_rarely

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report the end by Ctrl-C."""


def main() -> None:
    """Run a command. The exit code is 2 for an error, with one sentence on standard error, and 130 for Ctrl-C."""
    collect_rarely()
    try:
        from tollkeeper.cli.commands import app  # imported here so that Ctrl-C during the slow import is handled
        from tollkeeper.cli.runner import run

        code = run(app, "tollkeeper")
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)
