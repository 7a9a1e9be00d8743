"""The `tollkeeper` command: a surface, like the API."""

import sys

INTERRUPTED = 130
"""How shells name the end by Ctrl-C."""


def main() -> None:
    """Run a command. What the domain refuses is one sentence on standard error and exit code 2; Ctrl-C is 130."""
    try:
        from tollkeeper.cli.commands import app  # takes a while, in which somebody may change their mind
        from tollkeeper.cli.runner import run

        code = run(app, "tollkeeper")
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
