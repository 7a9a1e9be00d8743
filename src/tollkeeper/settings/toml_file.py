"""Reads a TOML file of the operator's, within bounds: the parser's time grows faster than its input."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

from tollkeeper.errors import ConfigurationError

MAX_BYTES = 1024 * 1024
"""Read in at most about five seconds. A catalog of this size has some thousands of models."""
MAX_DOTS = 20
"""On a line, outside strings and comments. A dotted key of 20,000 parts, in 40 KB, takes 15 seconds."""

_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*')


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """What the file has. Raises ConfigurationError, which calls it `name`, and never shows a value of it."""
    try:
        return tomllib.loads(_read(path, name), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        place = str(error).rpartition("(at ")[2].rstrip(")")
        raise ConfigurationError(f"The {name} is not valid TOML: look at {place}.") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"The {name} is not valid TOML: it has a number or a nesting without end.") from None


def _read(path: Path, name: str) -> str:
    place = f"the {name} at {path.absolute()}"
    if path.is_fifo():  # a reload would wait for its writer, and a stop for the reload
        raise ConfigurationError(f"Cannot read {place}: it is a pipe, not a file.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {place}: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"Cannot read {place}: it has more than {MAX_BYTES // 2**20} MiB.")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"Cannot read {place}: it is not UTF-8 text.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS and _STRING_OR_COMMENT.sub("", line).count(".") > MAX_DOTS:
            raise ConfigurationError(
                f"The {name} is not valid: line {number} has more than {MAX_DOTS} dots outside of strings."
            )
    return text
