"""Background jobs: calls that are submitted now, and made when there is time. The ledger knows how far each one is."""
