"""Who is calling: tenants, users, passwords, access tokens, API keys."""
