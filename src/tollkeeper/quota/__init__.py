"""How much is left: quotas, their windows, and the ledger that moves them."""
