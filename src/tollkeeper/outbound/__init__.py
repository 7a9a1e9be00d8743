"""Requests to addresses that tenants choose: OpenID providers, webhooks, and others that a tenant may name."""
