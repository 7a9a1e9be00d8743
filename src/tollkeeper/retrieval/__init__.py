"""Finds the chunks of documents that belong to a question: by their vectors, and by their words."""
