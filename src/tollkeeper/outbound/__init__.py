"""Requests to addresses that tenants choose: OpenID providers, and whatever else a tenant may name."""
