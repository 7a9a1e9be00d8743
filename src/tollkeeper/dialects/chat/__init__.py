"""OpenAI's chat-completions wire: requests, whole answers and streams, each read and written.

Many servers implement it only approximately, so the readers are lenient and the writers use only common fields. Wire
format: OpenAI API reference, "Chat".
"""

from tollkeeper.dialects.chat.answer_reader import read_answer
from tollkeeper.dialects.chat.answer_writer import write_answer
from tollkeeper.dialects.chat.parameters import PARAMETERS, SAMPLING, input_size_of
from tollkeeper.dialects.chat.request_reader import read_request
from tollkeeper.dialects.chat.request_writer import write_request
from tollkeeper.dialects.chat.stream_reader import StreamReader
from tollkeeper.dialects.chat.stream_writer import StreamWriter, write_stream_error

__all__ = [
    "PARAMETERS",
    "SAMPLING",
    "StreamReader",
    "StreamWriter",
    "input_size_of",
    "read_answer",
    "read_request",
    "write_answer",
    "write_request",
    "write_stream_error",
]
