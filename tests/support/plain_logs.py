"""What structlog prints in tests: as by default, but without the variables of each frame, which take seconds."""

import structlog


def print_plain_logs() -> None:
    """Set up structlog as it is at the start, with plain tracebacks."""
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])
