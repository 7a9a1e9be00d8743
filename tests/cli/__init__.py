"""The `tollkeeper` command, run on each of the two databases."""
