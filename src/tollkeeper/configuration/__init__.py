"""What administrators configure while the server runs: tenants' provider keys, and models that are switched off."""
