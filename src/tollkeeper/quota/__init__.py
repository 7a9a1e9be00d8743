"""Quotas, their windows, and the ledger: the only code that changes balances."""
