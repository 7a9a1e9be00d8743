"""The wire formats of others: each is read and written here, for callers and towards providers, and nowhere else."""
