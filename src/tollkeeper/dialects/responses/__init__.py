"""OpenAI's Responses wire, from both sides.

Wire format: OpenAI API reference, "Create a model response" and "Streaming events" of responses.
"""

from tollkeeper.dialects.responses.answer import read_answer, write_answer
from tollkeeper.dialects.responses.asking import write_request
from tollkeeper.dialects.responses.following import StreamTracker
from tollkeeper.dialects.responses.items import detached, shape_of
from tollkeeper.dialects.responses.parameters import PARAMETERS
from tollkeeper.dialects.responses.reader import EventReader
from tollkeeper.dialects.responses.request import read_request
from tollkeeper.dialects.responses.writer import StreamWriter, write_stream_error

__all__ = [
    "PARAMETERS",
    "EventReader",
    "StreamTracker",
    "StreamWriter",
    "detached",
    "read_answer",
    "read_request",
    "shape_of",
    "write_answer",
    "write_request",
    "write_stream_error",
]
