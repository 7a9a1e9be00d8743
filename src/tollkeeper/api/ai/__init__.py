"""The native AI doors."""

from tollkeeper.api.ai.query import QUERY

DOORS = (QUERY,)
