"""Where the asyncio tasks of a process stand."""

import asyncio
from typing import Any, TextIO


def write_tasks(file: TextIO) -> None:
    """Write where each asyncio task of this thread stands; nothing if no loop runs."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop is running
        return
    for task in tasks:
        print(f"Task {task.get_name()} (most recent call last):", file=file)
        waiting: Any = task.get_coro()
        while frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None):
            print(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}', file=file)
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    file.flush()
