"""Webhooks: events that are sent to URLs which tenants choose, signed, at least once, in the background."""
