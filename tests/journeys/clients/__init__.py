"""Clients that others have made, as they come out of the box."""
