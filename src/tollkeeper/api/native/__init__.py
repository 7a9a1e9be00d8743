"""The native AI surfaces."""

from tollkeeper.api.native.chat import CHAT
from tollkeeper.api.native.estimate import ESTIMATE
from tollkeeper.api.native.query import QUERY, STREAM

DOORS = (QUERY, STREAM, CHAT, ESTIMATE)
