"""Endpoints with the shapes of hand-written wrappers, over the same path: see docs/from-wrappers.md. Off by default."""

from tollkeeper.api.legacy.endpoints import CHAT, GENERATE, QUERY

ENDPOINTS = (CHAT, GENERATE, QUERY)
"""QUERY replaces the native endpoint at the same path."""
