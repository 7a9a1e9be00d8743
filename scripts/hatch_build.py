"""Puts the built console into the wheel, if it was built. An editable install reads it from the checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConsoleHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook of pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder to the files of the wheel. `version` is "editable" or "standard"."""
        folder = Path(self.root) / "console" / "dist"
        if version == "editable":
            return
        if (folder / "index.html").is_file():
            build_data["force_include"][str(folder)] = "tollkeeper/_console"
        else:
            self.app.display_warning("The console was not built, so the wheel is without it: make console")
