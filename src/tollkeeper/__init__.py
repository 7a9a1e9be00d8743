"""Tollkeeper: a secured multi-tenant AI API whose token quotas are exact."""

__version__ = "0.1.0"
