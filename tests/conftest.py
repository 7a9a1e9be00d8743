"""Plugins for all tests."""

pytest_plugins = ("support.hang_report", "support.databases", "support.measured_tests")
