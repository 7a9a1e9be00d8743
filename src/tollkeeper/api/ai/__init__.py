"""The native AI surfaces."""

from tollkeeper.api.ai.chat import CHAT
from tollkeeper.api.ai.estimate import ESTIMATE
from tollkeeper.api.ai.query import QUERY, STREAM

DOORS = (QUERY, STREAM, CHAT, ESTIMATE)
