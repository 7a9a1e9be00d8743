"""Limits on the rate of requests: of one process, or of several that count in Redis."""
