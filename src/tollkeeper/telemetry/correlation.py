"""The id of the request that the current task serves."""

from contextvars import ContextVar

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""Empty outside requests."""
