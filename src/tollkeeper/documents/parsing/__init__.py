"""Parses documents into chunks of text, in a process of its own with limits."""
