"""The proof that the ledger's rows add up."""
