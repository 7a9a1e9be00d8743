"""Who is calling: tenants, users, passwords, tokens."""
