"""The audit log: every administrative act and every login, one line each, never changed."""
