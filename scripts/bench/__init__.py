"""Measures the cost of a call through Tollkeeper and through a bare forwarder. `make bench` runs it."""
