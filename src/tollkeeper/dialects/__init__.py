"""Reads and writes the wire formats of other vendors' APIs, for callers and for providers."""
