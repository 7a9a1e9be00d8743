"""How long a test waits for an event that must happen. A test that passes never waits so long."""

TEST_DEADLINE_S = 120.0
"""More than ten times the longest wait on an idle machine, and less than the time limit of a test."""
