"""The fake upstream: a process that serves the wire formats of providers, and its handle for tests."""
