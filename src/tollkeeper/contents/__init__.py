"""What calls asked and were answered: stored, encrypted, for tenants that have turned this on for themselves."""
