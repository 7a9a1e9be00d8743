"""OpenAI's chat-completions wire, from both sides (OpenAI API reference, "Chat").

Many servers speak it, more or less; so what it reads is taken as it comes, and what it writes is plain.
"""

from tollkeeper.dialects.chat.answers import read_answer, read_usage, write_answer, write_usage
from tollkeeper.dialects.chat.parameters import PARAMETERS, SAMPLING, shape_of
from tollkeeper.dialects.chat.requests import read_request, write_request
from tollkeeper.dialects.chat.streams import EventReader, StreamWriter, write_stream_error

__all__ = [
    "PARAMETERS",
    "SAMPLING",
    "EventReader",
    "StreamWriter",
    "read_answer",
    "read_request",
    "read_usage",
    "shape_of",
    "write_answer",
    "write_request",
    "write_stream_error",
    "write_usage",
]
