"""Anthropic's messages wire: requests, whole answers and streams, each read and written.

Wire format: Claude API reference, "Messages".
"""

from tollkeeper.dialects.messages.answer_reader import read_answer
from tollkeeper.dialects.messages.answer_writer import write_answer, write_token_count
from tollkeeper.dialects.messages.declarations import allowed_betas, leave_out_hosted
from tollkeeper.dialects.messages.errors import error_type, write_error, write_stream_error
from tollkeeper.dialects.messages.parameters import (
    PARAMETERS,
    SAMPLING,
    UNTRANSLATED,
    enables_thinking,
    input_size_of,
    move_output_format,
)
from tollkeeper.dialects.messages.request_reader import read_request
from tollkeeper.dialects.messages.request_writer import write_request
from tollkeeper.dialects.messages.stream_reader import StreamReader
from tollkeeper.dialects.messages.stream_tracker import StreamTracker
from tollkeeper.dialects.messages.stream_writer import MESSAGE_STOP, StreamWriter

__all__ = [
    "MESSAGE_STOP",
    "PARAMETERS",
    "SAMPLING",
    "UNTRANSLATED",
    "StreamReader",
    "StreamTracker",
    "StreamWriter",
    "allowed_betas",
    "enables_thinking",
    "error_type",
    "input_size_of",
    "leave_out_hosted",
    "move_output_format",
    "read_answer",
    "read_request",
    "write_answer",
    "write_error",
    "write_request",
    "write_stream_error",
    "write_token_count",
]
