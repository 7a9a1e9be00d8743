"""How long a test waits for what must happen. A test that passes never waits so long, even on a busy machine."""

TEST_DEADLINE_S = 120.0
"""Far more than ten times what anything here takes on a quiet machine, and less than what a test may take."""
