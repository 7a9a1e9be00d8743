"""A group of commands whose modules are loaded when they are chosen: its help needs their names and a sentence each."""

from importlib import import_module
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class LazyCommand(TyperCommand):
    """Stands in the list of commands for a command, or a group of commands: the `app` of a module."""

    def __init__(self, name: str, module: str, help_text: str) -> None:
        super().__init__(name, help=help_text)
        self._module = module

    def load(self) -> Any:
        """Import the module. Returns the command or the group itself."""
        return get_command(import_module(self._module).app)


class LazyGroup(TyperGroup):
    """The commands in `lazy_commands`, in this order."""

    lazy_commands: ClassVar[tuple[LazyCommand, ...]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.lazy_commands:
            self.add_command(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that the arguments choose, to run it or to complete its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
