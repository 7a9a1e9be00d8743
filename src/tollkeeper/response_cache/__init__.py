"""Keeps whole answers in memory, so that the same question need not be sent to a provider again."""
