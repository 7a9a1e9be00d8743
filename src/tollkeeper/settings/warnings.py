"""Variables that have no effect: misspelled names, and a provider's without its key."""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches

from tollkeeper.errors import ConfigurationError
from tollkeeper.settings import PREFIX, Settings, names_of_secrets, names_of_settings
from tollkeeper.settings.secret_files import SUFFIX
from tollkeeper.settings.toml_file import read_toml
from tollkeeper.settings.variables import read_env_file

_KUBERNETES_VARIABLE = re.compile(r"TOLLKEEPER_(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)")
"""Kubernetes sets these in every container beside a service named `tollkeeper`."""
LEAST_LIKENESS = 0.8
"""Of two names, as `difflib` counts it: one letter of nine too many, too few, or another."""


def setting_warnings(settings: Settings) -> list[str]:
    """Returns a sentence for each variable that has no effect. It is no error: others may use the same names.

    Raises ConfigurationError for a `.env` that cannot be read.
    """
    known = {name for names in names_of_settings() for name in names}
    known |= {name + SUFFIX for _, names in names_of_secrets() for name in names}
    given_names = sorted({name.upper() for name in (*os.environ, *read_env_file())})
    named = _named_by_catalog(settings) if any(name.startswith(PREFIX) for name in given_names) else set()
    warnings = [warning for name in given_names if (warning := _warning(name, known, named)) is not None]
    given = settings.model_fields_set
    if "openai_base_url" in given and settings.openai_api_key is None:
        warnings.append(
            "OPENAI_BASE_URL has no effect: OPENAI_API_KEY is not set. If the server needs no key, set any value."
        )
    if "anthropic_base_url" in given and not (settings.anthropic_api_key or settings.anthropic_auth_token):
        warnings.append("ANTHROPIC_BASE_URL has no effect: neither ANTHROPIC_API_KEY nor ANTHROPIC_AUTH_TOKEN is set.")
    return warnings


def _warning(name: str, known: Collection[str], named_by_catalog: Collection[str]) -> str | None:
    """The warning for a variable that is set; None if it has an effect, or is of another program."""
    if name in known or name in named_by_catalog or _KUBERNETES_VARIABLE.match(name):
        return None
    if name.startswith(PREFIX):
        short = name.removeprefix(PREFIX)
        meant = [short] if short in known else get_close_matches(name, sorted(known), n=1, cutoff=LEAST_LIKENESS)
        return f"{name} is not a setting." + (f" Did you mean {meant[0]}?" if meant else "")
    prefix, _, rest = name.partition("_")
    if PREFIX + rest in known and SequenceMatcher(None, f"{prefix}_", PREFIX).ratio() >= LEAST_LIKENESS:
        return f"{name} is not a setting. Did you mean {PREFIX}{rest}?"
    return None


def _named_by_catalog(settings: Settings) -> set[str]:
    """The variables that the operator's catalog names for API keys, and those of their files. What is wrong with the
    catalog is reported by what reads it as a whole.
    """
    found: set[str] = set()
    with suppress(ConfigurationError, AttributeError):
        document = read_toml(settings.catalog, "catalog") if settings.catalog is not None else {}
        names = [str(entry.get("api_key_env")).upper() for entry in document.get("providers", {}).values()]
        found.update(names, (name + SUFFIX for name in names))
    return found
