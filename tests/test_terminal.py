"""Whether the terminal of a process is gone."""

import os
import pty

from tollkeeper.terminal import Terminal


def test_a_terminal_is_gone_once_its_other_end_is_closed() -> None:
    controller, terminal = pty.openpty()
    found = Terminal(terminal)
    before = found.is_gone
    os.close(controller)
    assert (before, found.is_gone) == (False, True)
    os.close(terminal)


def test_a_process_without_a_terminal_loses_none() -> None:
    reader, writer = os.pipe()
    found = Terminal(reader)
    os.close(reader)
    os.close(writer)
    assert not found.is_gone
