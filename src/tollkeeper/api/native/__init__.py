"""Endpoints of this server's own API, under /ai."""

from tollkeeper.api.native.chat import CHAT
from tollkeeper.api.native.estimate import ESTIMATE
from tollkeeper.api.native.query import QUERY, STREAM

ENDPOINTS = (QUERY, STREAM, CHAT, ESTIMATE)
