"""Batches: files whose lines are calls. Each line is a background job, whose call is reserved when it starts."""
