"""Anthropic's messages wire, from both sides (Claude API reference, "Messages")."""

from tollkeeper.dialects.messages.answers import read_answer, read_usage, write_answer, write_token_count, write_usage
from tollkeeper.dialects.messages.errors import error_body, error_type, write_stream_error
from tollkeeper.dialects.messages.parameters import PARAMETERS, SAMPLING, shape_of, thinks, with_output_config
from tollkeeper.dialects.messages.requests import read_request, write_request
from tollkeeper.dialects.messages.streams import STOP, EventReader, StreamTracker, StreamWriter

__all__ = [
    "PARAMETERS",
    "SAMPLING",
    "STOP",
    "EventReader",
    "StreamTracker",
    "StreamWriter",
    "error_body",
    "error_type",
    "read_answer",
    "read_request",
    "read_usage",
    "shape_of",
    "thinks",
    "with_output_config",
    "write_answer",
    "write_request",
    "write_stream_error",
    "write_token_count",
    "write_usage",
]
