"""OpenAI's Responses wire: requests, whole answers and streams, each read and written.

Wire format: OpenAI API reference, "Create a model response" and "Streaming events" of responses.
"""

from tollkeeper.dialects.responses.answer_reader import read_answer
from tollkeeper.dialects.responses.answer_writer import write_answer
from tollkeeper.dialects.responses.content import strip_item_ids
from tollkeeper.dialects.responses.declarations import leave_out_hosted
from tollkeeper.dialects.responses.namespaces import NO_NAMESPACES, ToolName, namespaced_tools
from tollkeeper.dialects.responses.parameters import PARAMETERS, input_size_of
from tollkeeper.dialects.responses.request_reader import read_request
from tollkeeper.dialects.responses.request_writer import write_request
from tollkeeper.dialects.responses.stream_reader import StreamReader
from tollkeeper.dialects.responses.stream_tracker import StreamTracker
from tollkeeper.dialects.responses.stream_writer import StreamWriter, write_stream_error

__all__ = [
    "NO_NAMESPACES",
    "PARAMETERS",
    "StreamReader",
    "StreamTracker",
    "StreamWriter",
    "ToolName",
    "input_size_of",
    "leave_out_hosted",
    "namespaced_tools",
    "read_answer",
    "read_request",
    "strip_item_ids",
    "write_answer",
    "write_request",
    "write_stream_error",
]
