"""The shells into which people paste the commands of the documents and of the programs."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

SHELLS = {
    "sh": ("sh",),
    "bash": ("bash", "--norc", "-O", "expand_aliases"),
    "zsh": ("zsh", "-f"),
    "fish": ("fish", "--no-config"),
}
EVERY_SHELL = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in SHELLS
]
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_]\w*=")
_SPECIAL = re.compile(r"[#?*\[\]~!^]")


def paste_problem(line: str) -> str | None:
    """Returns why this line fails when it is pasted into one of the shells, or None.

    An interactive zsh has no comments, and expands ?, * and [ or fails; fish has no assignment but `set` and `export`.
    """
    bare = _QUOTED.sub("", line)
    if _ASSIGNMENT.match(bare):
        return f"an assignment without export: {line}"
    if (found := _SPECIAL.search(bare)) is not None:
        return f"{found[0]} outside of quotes: {line}"
    return None


def run_script(shell: str, script: str, folder: Path, environment: Mapping[str, str], notes: str = "") -> str:
    """Run the lines in a shell. Returns its standard output. They may write nothing but `notes` to standard error."""
    path = folder / f"script.{shell}"
    path.write_text(script + "\n")
    done = subprocess.run(
        [*SHELLS[shell], str(path)],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, notes), done
    return done.stdout


def syntax_error(shell: str, script: str) -> str:
    """Returns what the shell complains about without running the lines; an empty text for nothing."""
    checked = subprocess.run(
        [*SHELLS[shell], "-n"], input=script, capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False
    )
    return checked.stderr or ("" if checked.returncode == 0 else f"exit code {checked.returncode}")
