"""The databases that the ledger's rules work on."""
